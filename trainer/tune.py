"""Which learning rate, inner size and dropout: every combination's head, trained on the stored features.

The search is itertools.product and not KerasTuner (1.4.8), which does not serve here:

- Its oracle calls threading.currentThread() and getName(), deprecated since Python 3.10, at every step: with
  warnings as errors (pyproject.toml) the search ends in a DeprecationWarning before the first trial.
- Tuner.search takes every exception of `run_trial` for a trial that failed, and goes on with the next:
  SIGTERM's StoppedError, a full volume, a bug. After some in a row (3 by default) it ends the search,
  so that learning rates that diverge end it as well. Only overriding its private methods changes that.
- It would be left with the order of a grid: the training loop is our own (trainer/fitting.py), and ranking
  by accuracy, ties by loss, is no objective that it knows.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import os
import random
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from trainer import (
    backbones,
    classifier,
    distribution,
    doctor,
    phases,
    progress,
    storage,
    trials,
)
from trainer.config import TrainConfig
from trainer.distribution import Devices
from trainer.errors import ConfigError, DivergedError, StoppedError
from trainer.fitting import Epoch, Training
from trainer.stopping import Stop
from trainer.trials import Grid, Trial
from trainer.usable import UsableImages

_log = logging.getLogger(__name__)

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a search leaves behind.

    Attributes:
      trials: best first.
      directory: holds trials.json, trials.csv and trials.png.
    """

    config: TrainConfig
    trials: Sequence[Trial]
    directory: Path


def tune(config: TrainConfig, grid: Grid, stop: Stop | None = None) -> Tuned:
    """Train a head with each combination of the grid, `config.epochs` long, and write their table.

    Each trial gives what `train` gives with its settings: the same initial weights, the same history.

    Args:
      stop: how the search is asked to end; None: nobody asks.
    Raises:
      ConfigError: with --fine-tune-from or --no-prefix-cache.
      DivergedError: all trials have; the table is written.
      TrainerError: another of its family, with which `train` would refuse the same settings.
    """
    _check(config)
    scan = doctor.require(config)
    devices = distribution.connect(config, os.environ)
    directory = trials.directory(config.model_dir, config.name)
    with distribution.naming_lost_worker(devices):
        if devices.is_chief:
            with storage.explaining("The model directory cannot take the trials", directory):
                directory.mkdir(parents=True, exist_ok=True)
        images = UsableImages(config, devices, directory, scan)
        search = _Search(config, devices, stop or Stop(), images)
        table = trials.ranked(search.run(grid))
        tuned = Tuned(config, table, directory)
        if devices.is_chief:
            _write(tuned)
    if table[0].val_accuracy is None:
        raise DivergedError(
            f"Of {len(table)} trials at least one must learn. Received: all of them diverged. Try smaller "
            f"--learning-rates than {min(grid.learning_rates):g}."
        )
    return tuned


def _check(config: TrainConfig) -> None:
    if config.fine_tune_from is not None:
        raise ConfigError(
            "tune searches settings of the head, with the backbone frozen. Received: --fine-tune-from "
            f"{config.fine_tune_from}. Leave it out, and give it to train with --from-trial best."
        )
    if not config.prefix_cache:
        raise ConfigError(
            "tune trains on the prefix cache's features. Received: --no-prefix-cache. Leave it out."
        )


class _Search:
    """The stored features, and what all trials have in common."""

    def __init__(self, config: TrainConfig, devices: Devices, stop: Stop, images: UsableImages) -> None:
        """Have the features of all images stored, if they are not yet."""
        self._config = config
        self._devices = devices
        self._stop = stop
        backbone = backbones.find(config.backbone)
        image_size_px = config.image_size or backbone.native_size_px
        self._class_count = len(images.splits["train"].classes)
        with devices.strategy.scope():
            keras.utils.set_random_seed(config.seed)
            network = classifier.build(config, backbone, image_size_px, self._class_count)
        plan = images.read(lambda splits: phases.plan(config, network, splits, image_size_px, devices, stop))
        self._head = plan.phases[0]
        self._random_state = _random_state_before_head(config, image_size_px)
        # A trial is not gone on with.
        unsaved = dataclasses.replace(config, checkpoint_seconds=math.inf)
        self._options = phases.options(unsaved, images.splits["train"])

    def run(self, grid: Grid) -> list[Trial]:
        """Train all combinations, in order.

        Raises:
          StoppedError: SIGTERM came.
        """
        done: list[Trial] = []
        images_per_trial = self._config.epochs * len(self._head.train.labels)
        with progress.bar("trials", len(grid) * images_per_trial) as advance:
            for number, combination in enumerate(grid.combinations(), start=1):
                bar = _TrialBar(advance, images_per_trial)
                try:
                    done.append(self._try(number, combination, bar.advance))
                except StoppedError as error:
                    raise StoppedError(
                        f"Stopped by SIGTERM in trial {number} of {len(grid)}. The features are stored: the "
                        "same command begins the trials again."
                    ) from error
                bar.fill()
                if self._devices.is_chief:
                    _log.info("trial %d/%d  %s", number, len(grid), _line(done[-1]))
        return done

    def _try(self, number: int, combination: dict[str, Any], on_images: Callable[[int], None]) -> Trial:
        started = time.monotonic()
        validation_count = len(self._head.validation.labels)
        result: dict[str, Any]
        try:
            best = _best(self._fit(dataclasses.replace(self._config, **combination), on_images))
            result = {
                "best_epoch": best.epoch,
                "val_accuracy": best.val_accuracy,
                "val_loss": best.val_loss,
                "correct": round(best.val_accuracy * validation_count),
            }
        except DivergedError as error:
            result = {"note": f"diverged: {error}"}
        # What a trial has held, cycles of graphs and variables, would pile up to gigabytes.
        gc.collect()
        seconds = round(time.monotonic() - started, 3)
        return Trial(number=number, **combination, **result, count=validation_count, seconds=seconds)

    def _fit(self, config: TrainConfig, on_images: Callable[[int], None]) -> list[Epoch]:
        """Train one head and return its history."""
        with self._devices.strategy.scope():
            random.setstate(self._random_state)
            head = classifier.build_head(config, self._head.model.input_shape[-1], self._class_count)
        # What --scale-learning-rate makes of a learning rate: 1, or the number of replicas.
        scale = round(self._head.learning_rate / self._config.learning_rate)
        phase = dataclasses.replace(
            self._head,
            model=head,
            variables=head.trainable_variables,
            learning_rate=config.learning_rate * scale,
        )
        with tempfile.TemporaryDirectory() as directory:
            training = Training(
                self._options,
                self._devices,
                Path(directory, "checkpoint.npz"),
                self._stop,
                on_images=on_images,
            )
            training.run(phase)
        return training.history


def _random_state_before_head(config: TrainConfig, image_size_px: int) -> tuple[Any, ...]:
    """Return Python's random state from which `train` draws the head's initial weights.

    Keras draws the seed of each initializer from it: a backbone that is built first, with whatever weights,
    has taken its share.
    """
    keras.utils.set_random_seed(config.seed)
    backbones.build_features(backbones.find(config.backbone), image_size_px, "none")
    return random.getstate()


class _TrialBar:
    """One trial's part of the progress bar."""

    def __init__(self, advance: Callable[[int], None], images: int) -> None:
        self._advance = advance
        self._left = images

    def advance(self, images: int) -> None:
        self._left -= images
        self._advance(images)

    def fill(self) -> None:
        """Take as done what a trial that diverged has left."""
        self.advance(self._left)


def _best(history: Sequence[Epoch]) -> Epoch:
    best = history[0]
    for epoch in history:
        if epoch.is_better_than(best):
            best = epoch
    return best


def _line(trial: Trial) -> str:
    return (
        f"learning rate {trial.learning_rate:g}  inner size {trial.inner_size}  dropout {trial.dropout:g}  "
        f"{trial.in_words}  {trial.seconds:.1f} s"
    )


def _write(tuned: Tuned) -> None:
    directory = tuned.directory
    with storage.explaining("The trials cannot be written", directory):
        storage.write_atomically(directory / "trials.csv", trials.to_csv(tuned.trials))
        storage.write_atomically(
            directory / "trials.png", lambda file: _plot(tuned.trials).savefig(file, format="png", dpi=120)
        )
        # Last: `train --from-trial` reads it.
        storage.write_atomically(directory / trials.JSON_NAME, trials.to_json(tuned.config, tuned.trials))


def _plot(table: Sequence[Trial]) -> Figure:
    """Draw validation accuracy by learning rate: a panel for each inner size, a line for each dropout."""
    inner_sizes = sorted({trial.inner_size for trial in table})
    figure = Figure(figsize=(1.6 + 3.4 * len(inner_sizes), 4.4), layout="constrained")
    panels = figure.subplots(1, len(inner_sizes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, inner_size in zip(panels, inner_sizes, strict=True):
        _draw_panel(axes, [trial for trial in table if trial.inner_size == inner_size], table[0])
        axes.set_title(f"inner size {inner_size}" if inner_size else "no inner layer")
    panels[0].set_ylabel("validation accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    figure.supxlabel("learning rate", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _draw_panel(axes: Axes, panel: Sequence[Trial], winner: Trial) -> None:
    dropouts = sorted({trial.dropout for trial in panel})
    for dropout, marker in zip(dropouts, _MARKERS * len(dropouts), strict=False):
        line = sorted(
            (trial for trial in panel if trial.dropout == dropout), key=lambda trial: trial.learning_rate
        )
        # A line has a gap where a trial diverged.
        accuracies = [float("nan") if one.val_accuracy is None else one.val_accuracy for one in line]
        rates = [trial.learning_rate for trial in line]
        axes.plot(rates, accuracies, f"{marker}-", markersize=5, label=f"dropout {dropout:g}")
    if winner in panel and winner.val_accuracy is not None:
        axes.plot(winner.learning_rate, winner.val_accuracy, "*", markersize=18, mfc="none", mec="black")
        axes.annotate(
            f"best: {winner.val_accuracy:.2%}",
            (winner.learning_rate, winner.val_accuracy),
            xytext=(0, 12),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
    axes.set_xscale("log")
    rates = sorted({trial.learning_rate for trial in panel})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)


_MARKERS = "osD^v"


def show(tuned: Tuned) -> None:
    """Print the best trials on stdout, and how the winner is trained."""
    shown = tuned.trials[:_SHOWN]
    title = f"The best {len(shown)} of {len(tuned.trials)} trials, on {shown[0].count} validation images"
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for name in ("trial", "learning rate", "inner size", "dropout", "val accuracy", "correct", "val loss"):
        table.add_column(name, justify="right")
    for trial in shown:
        table.add_row(*_cells(trial))
    console = Console(highlight=False)
    console.print(table)
    command = ["python", "-m", "trainer", "train", "--model-dir", str(tuned.config.model_dir)]
    command += ["--name", tuned.config.name, "--from-trial", "best"]
    # Not through the console, which would break the lines at the terminal's width.
    print(f"All trials: {tuned.directory}/trials.json, trials.csv, trials.png")
    print(f"Train the winner: {shlex.join(command)}")


def _cells(trial: Trial) -> list[str]:
    cells = [str(trial.number), f"{trial.learning_rate:g}", str(trial.inner_size), f"{trial.dropout:g}"]
    if trial.val_accuracy is None:
        return [*cells, "diverged"]
    return [*cells, f"{trial.val_accuracy:.4f}", str(trial.correct), f"{trial.val_loss:.4f}"]
