import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import Grid, TrainConfig
from trainer.errors import ConfigError
from trainer.training.tuning.trials import (
    Trial,
    rank_trials,
    trial_settings,
    trials_csv,
    trials_directory,
    trials_json,
)


def trial(number: int, val_accuracy: float | None, val_loss: float | None, **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "number": number,
        "learning_rate": 0.01,
        "hidden_units": 100,
        "dropout": 0.2,
        "best_epoch": None if val_accuracy is None else 3,
        "val_accuracy": val_accuracy,
        "val_loss": val_loss,
        "correct": None if val_accuracy is None else round(val_accuracy * 20),
        "count": 20,
        "seconds": 0.5,
        "note": "diverged" if val_accuracy is None else "",
    }
    return Trial(**{**values, **changes})


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=Path("images"), model_dir=tmp_path, name="tiny", epochs=3, dropout=0.7, run_id="r1", seed=4
    )


def write(config: TrainConfig, table: list[Trial]) -> Path:
    path = trials_directory(config.model_dir, config.name) / "trials.json"
    path.parent.mkdir(parents=True)
    path.write_text(trials_json(config, table))
    return path


def test_the_grid_of_the_course_is_the_default() -> None:
    assert len(Grid()) == 4 * 3 * 4
    assert Grid().learning_rates == (0.0001, 0.001, 0.01, 0.1)
    assert Grid().hidden_unit_counts == (10, 100, 1000)
    assert Grid().dropouts == (0.0, 0.2, 0.5, 0.8)


def test_a_grid_holds_every_combination_once() -> None:
    combinations = Grid(
        learning_rates=[0.1, 0.2], hidden_unit_counts=[0, 5, 6], dropouts=[0.0]
    ).combinations()
    assert {tuple(one.values()) for one in combinations} == {
        (rate, size, 0.0) for rate in (0.1, 0.2) for size in (0, 5, 6)
    }
    assert len(combinations) == 6
    assert len(Grid().combinations()) == len(Grid())


def test_accuracy_decides_the_rank_then_the_loss_and_what_diverged_is_last() -> None:
    table = [trial(1, None, None), trial(2, 0.8, 0.6), trial(3, 0.9, 0.7), trial(4, 0.8, 0.5)]
    assert [one.number for one in rank_trials(table)] == [3, 4, 2, 1]
    assert [one.number for one in rank_trials([trial(2, 0.8, 0.5), trial(1, 0.8, 0.5)])] == [1, 2]


def test_csv_and_json_hold_the_same_table(config: TrainConfig) -> None:
    table = [trial(2, 0.85, 0.6123456789), trial(1, None, None, note='a "note", with a comma')]
    from_json = json.loads(trials_json(config, table))["trials"]
    from_csv = list(csv.DictReader(io.StringIO(trials_csv(table))))
    assert len(from_json) == 2
    assert from_csv == [
        {key: "" if value is None else str(value) for key, value in one.items()} for one in from_json
    ]


def test_a_trials_settings_are_the_tuned_ones_with_its_combination(config: TrainConfig) -> None:
    write(config, [trial(7, 0.9, 0.1, learning_rate=0.1, hidden_units=10, dropout=0.0), trial(2, 0.8, 0.2)])
    best = trial_settings(config.model_dir, "tiny", "best")
    assert (best["learning_rate"], best["hidden_units"], best["dropout"]) == (0.1, 10, 0.0)
    assert (best["epochs"], best["seed"], best["cache_dir"]) == (3, 4, None)
    assert best["data"] == Path("images")
    assert best == trial_settings(config.model_dir, "tiny", "7")
    assert trial_settings(config.model_dir, "tiny", "2")["learning_rate"] == 0.01
    # `train` is told by its own flags where, and a finished run's id would end it before it began.
    assert not {"model_dir", "name", "run_id"} & set(best)
    TrainConfig(model_dir=config.model_dir, name="other", **best)


def refusal(config: TrainConfig, chosen: str) -> str:
    with pytest.raises(ConfigError) as raised:
        trial_settings(config.model_dir, config.name, chosen)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_where_nothing_was_tuned_it_says_to_tune(config: TrainConfig) -> None:
    said = refusal(config, "best")
    assert "Received: no " in said
    assert str(config.model_dir / "tiny" / ".tune" / "trials.json") in said
    assert "Run `python -m trainer tune`" in said


@pytest.mark.parametrize("chosen", ["0", "3", "-1", "worst", "", "1.0"])
def test_an_unknown_number_is_refused_with_those_there_are(config: TrainConfig, chosen: str) -> None:
    write(config, [trial(2, 0.9, 0.1), trial(1, 0.8, 0.1)])
    assert refusal(config, chosen).startswith("--from-trial must be best or a number from 1 to 2")


def test_a_trial_that_diverged_is_not_trained_again(config: TrainConfig) -> None:
    write(config, [trial(2, 0.9, 0.1), trial(1, None, None)])
    assert "Received: trial 1 of " in refusal(config, "1")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"config": {"data": "x"}, "trials": [{"number": 1}]}',
        b'{"config": {"no_such_setting": 1}, "trials": []}',
    ],
)
def test_what_is_no_table_of_trials_is_refused(config: TrainConfig, content: bytes) -> None:
    write(config, []).write_bytes(content)
    assert "must be as `python -m trainer tune` writes it" in refusal(config, "best")


def test_a_file_that_cannot_be_read_is_refused(config: TrainConfig) -> None:
    path = write(config, [])
    path.unlink()
    path.mkdir()
    assert "cannot be read: Is a directory" in refusal(config, "best")
