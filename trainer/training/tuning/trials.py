"""The trials of `python -m trainer tune`: their table on disk, and the settings of one of them.

MODEL_DIR/NAME/.tune/trials.json   the tuned settings, and all trials, best first
MODEL_DIR/NAME/.tune/trials.csv    the same table
MODEL_DIR/NAME/.tune/trials.png    the same as a plot
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trainer import config
from trainer.config import TrainConfig
from trainer.errors import ConfigError

TRIALS_JSON = "trials.json"

_NOT_OF_A_TRIAL = frozenset({"model_dir", "name", "run_id"})
"""Settings that `train` takes from its own flags: where the trials are, and the name of its own run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination of the grid, and the figures of its best epoch.

    Attributes:
      number: from 1, in the order of training.
      best_epoch: from 1; it and the figures after it are None if the trial diverged.
      val_loss: mean over the validation images.
      correct: of `count` validation images.
      seconds: of building and training; parallel trials share theirs equally.
      note: why there are no figures.
    """

    number: int
    learning_rate: float
    hidden_units: int
    dropout: float
    best_epoch: int | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    correct: int | None = None
    count: int
    seconds: float
    note: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The combination, as settings of a `TrainConfig`."""
        return {key: getattr(self, key) for key in ("learning_rate", "hidden_units", "dropout")}

    @property
    def outcome(self) -> str:
        """The log line of its best epoch, or the reason why it has no figures."""
        if self.val_accuracy is None:
            return self.note
        correct = f"{self.correct} of {self.count}"
        return f"val_accuracy {self.val_accuracy:.4f} ({correct}) in epoch {self.best_epoch}"


def rank_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials, best first: by validation accuracy, then by loss; diverged ones last."""

    def rank(trial: Trial) -> tuple[float, float, int]:
        if trial.val_accuracy is None or trial.val_loss is None:
            return math.inf, math.inf, trial.number
        return -trial.val_accuracy, trial.val_loss, trial.number

    return sorted(trials, key=rank)


def trials_directory(model_dir: Path, name: str) -> Path:
    """Return the directory of a model's trials."""
    return model_dir / name / ".tune"


def trials_json(tuned: TrainConfig, trials: Sequence[Trial]) -> str:
    """Return the content of trials.json, with the trials in the given order."""
    table = [dataclasses.asdict(trial) for trial in trials]
    return json.dumps({"config": json.loads(tuned.to_json()), "trials": table}, indent=2)


def trials_csv(trials: Sequence[Trial]) -> str:
    """Return the table as CSV with a header; missing figures are empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Trial)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(trial) for trial in trials)
    return text.getvalue()


def trial_settings(model_dir: Path, name: str, chosen: str) -> dict[str, Any]:
    """Return the settings with which `train` repeats a trial.

    Args:
      chosen: "best", or a trial's number.
    Returns:
      Values of `TrainConfig`'s fields: the tuned configuration with the trial's combination, but without
      model_dir, name and run_id.
    Raises:
      ConfigError: the file cannot be read, does not hold this trial, or the trial diverged.
    """
    path = trials_directory(model_dir, name) / TRIALS_JSON
    tuned, table = _read(path)
    trial = _find(path, table, chosen)
    if trial.val_accuracy is None:
        raise ConfigError(
            f"--from-trial {chosen}: the trial must not have diverged. Received: trial "
            f"{trial.number} of {path}, {trial.note}. Choose another number, or tune with other values."
        )
    return {key: value for key, value in tuned.items() if key not in _NOT_OF_A_TRIAL} | trial.settings


def _read(path: Path) -> tuple[dict[str, Any], list[Trial]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tuned = {key: _typed(key, value) for key, value in content["config"].items()}
        return tuned, [Trial(**trial) for trial in content["trials"]]
    except FileNotFoundError:
        raise ConfigError(
            f"--from-trial reads the trials of an earlier search. Received: no {path}. Run `python -m "
            "trainer tune` with the same --model-dir and --name first."
        ) from None
    except OSError as error:
        raise ConfigError(f"--from-trial: {path} cannot be read: {error.strerror}.") from error
    # Not JSON, not UTF-8, or not what `trials_json` writes: from another version of the trainer, or edited.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--from-trial: {path} must be as `python -m trainer tune` writes it. Received: {reason}. "
            "Tune again."
        ) from error


def _typed(key: str, value: Any) -> Any:
    return Path(value) if value is not None and config.value_type(key) is Path else value


def _find(path: Path, table: Sequence[Trial], chosen: str) -> Trial:
    if chosen == "best" and table:
        return table[0]
    for trial in table:
        if str(trial.number) == chosen:
            return trial
    raise ConfigError(
        f"--from-trial must be best or a number from 1 to {len(table)}, of the trials in {path}. "
        f"Received: {chosen!r}."
    )
