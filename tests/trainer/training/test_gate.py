import pytest

from trainer.training.gate import gate_refusal
from trainer.training.metrics import Metrics


def metrics(correct: int, loss: float = 0.5) -> Metrics:
    return Metrics(10, correct, correct / 10, loss)


def test_a_model_that_is_good_enough_is_not_refused() -> None:
    assert not gate_refusal(metrics(8), None, None)
    assert not gate_refusal(metrics(8), 0.8, None)
    assert not gate_refusal(metrics(8), None, (3, metrics(7)))
    assert not gate_refusal(metrics(8, loss=0.4), None, (3, metrics(8, loss=0.5)))


@pytest.mark.parametrize(
    ("min_accuracy", "newest", "named"),
    [
        pytest.param(0.9, None, ["--min-accuracy", "0.9", "8 of 10"], id="below the minimum"),
        pytest.param(None, (3, metrics(9)), ["--must-beat-serving", "version 3", "9 of 10"], id="worse"),
        pytest.param(None, (3, metrics(8)), ["version 3", "8 of 10"], id="no better"),
    ],
)
def test_a_model_that_is_not_good_enough_is_refused_with_the_figures(
    min_accuracy: float | None, newest: tuple[int, Metrics] | None, named: list[str]
) -> None:
    refusal = gate_refusal(metrics(8), min_accuracy, newest)
    for word in named:
        assert word in refusal
