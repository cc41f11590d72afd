import pytest

from trainer.errors import NotGoodEnoughError
from trainer.training.gate import check_gate
from trainer.training.metrics import Metrics


def metrics(correct: int, loss: float = 0.5) -> Metrics:
    return Metrics(10, correct, correct / 10, loss)


def test_good_enough_passes() -> None:
    check_gate(metrics(8), None, None)
    check_gate(metrics(8), 0.8, None)
    check_gate(metrics(8), None, (3, metrics(7)))
    check_gate(metrics(8, loss=0.4), None, (3, metrics(8, loss=0.5)))  # as accurate, and surer


@pytest.mark.parametrize(
    ("min_accuracy", "newest", "message"),
    [
        pytest.param(0.9, None, r"at least 0.9. Received: 8 of 10 right \(0.8000\)", id="below the minimum"),
        pytest.param(None, (3, metrics(9)), r"more than version 3, with 9 of 10 right", id="worse"),
        pytest.param(None, (3, metrics(8)), r"Version 3 stays", id="no better"),
    ],
)
def test_not_good_enough_is_refused(
    min_accuracy: float | None, newest: tuple[int, Metrics] | None, message: str
) -> None:
    with pytest.raises(NotGoodEnoughError, match=message):
        check_gate(metrics(8), min_accuracy, newest)
