"""Which learning rate, hidden units and dropout: every combination's head, trained on the stored features.

The search is itertools.product and not KerasTuner (1.4.8), which does not serve here:

- Its oracle calls threading.currentThread() and getName(), deprecated since Python 3.10, at every step: with
  warnings as errors (pyproject.toml) the search ends in a DeprecationWarning before the first trial.
- Tuner.search takes every exception of `run_trial` for a trial that failed, and goes on with the next:
  SIGTERM's StoppedError, a full volume, a bug. After some in a row (3 by default) it ends the search,
  so that learning rates that diverge end it as well. Only overriding its private methods changes that.
- It would be left with the order of a grid: the training loop is our own (trainer/loop.py), and ranking
  by accuracy, ties by loss, is no objective that it knows.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from trainer.config import Grid, TrainConfig
from trainer.data import ScreenedImages
from trainer.errors import ConfigError, DivergedError, StoppedError
from trainer.model import build_backbone, build_head, find_backbone, join_head
from trainer.runtime import progress, storage
from trainer.runtime.stopping import Stop
from trainer.training.distribution import Devices, connect_devices, name_lost_worker
from trainer.training.loop import Epoch, Phase
from trainer.training.phases import plan_training, step_options
from trainer.training.preflight import require_ready
from trainer.training.tuning import trials
from trainer.training.tuning.parallel import train_in_parallel
from trainer.training.tuning.summary import write_trials
from trainer.training.tuning.trials import Trial

_log = logging.getLogger(__name__)

_MOST_SIDE_BY_SIDE = 16
_BYTES_SIDE_BY_SIDE = 2**30
"""How many trials are trained in one call: with more, tracing takes longer than calling less often saves."""


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
      ConfigError: with --fine-tune-from or --no-feature-cache.
      DivergedError: all trials have; the table is written.
      TrainerError: another of its family, with which `train` would refuse the same settings.
    """
    _check(config)
    scan = require_ready(config)
    devices = connect_devices(config, os.environ)
    directory = trials.trials_directory(config.model_dir, config.name)
    with name_lost_worker(devices):
        if devices.is_chief:
            with storage.explain_errors("The model directory cannot take the trials", directory):
                directory.mkdir(parents=True, exist_ok=True)
        images = ScreenedImages(scan, config.on_invalid_image, directory, is_chief=devices.is_chief)
        search = _Search(config, devices, stop or Stop(), images)
        table = trials.rank_trials(search.run(grid))
        tuned = Tuned(config, table, directory)
        if devices.is_chief:
            write_trials(directory, config, table)
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
    if not config.feature_cache:
        raise ConfigError(
            "tune trains on the feature cache's features. Received: --no-feature-cache. Leave it out."
        )


class _Search:
    """The stored features, and what all trials have in common."""

    def __init__(self, config: TrainConfig, devices: Devices, stop: Stop, images: ScreenedImages) -> None:
        """Have the features of all images stored, if they are not yet."""
        self._config = config
        self._devices = devices
        self._stop = stop
        backbone = find_backbone(config.backbone)
        image_size_px = config.image_size or backbone.native_size_px
        self._class_count = len(images.splits["train"].classes)
        with devices.strategy.scope():
            keras.utils.set_random_seed(config.seed)
            features = build_backbone(config, backbone, image_size_px)
            # Keras draws the seeds of initializers from Python's generator: from here on, the head's.
            self._random_state = random.getstate()
            head = build_head(config, features.output_shape[-1], self._class_count)
            network = join_head(config, features, head)
        plan = images.read(
            lambda splits: plan_training(config, network, splits, image_size_px, devices, stop)
        )
        self._head = plan.phases[0]
        self._options = step_options(config, images.splits["train"])
        # What --scale-learning-rate makes of a learning rate: 1, or the number of replicas.
        self._scale = round(self._head.learning_rate / config.learning_rate)

    def run(self, grid: Grid) -> list[Trial]:
        """Train all combinations, in order.

        Raises:
          StoppedError: SIGTERM came.
        """
        done: list[Trial] = []
        images_per_trial = self._config.epochs * len(self._head.train.labels)
        with progress.bar("trials", len(grid) * images_per_trial) as advance:
            for group in self._groups(grid.combinations()):
                try:
                    tried = self._try(len(done) + 1, group, advance)
                except StoppedError as error:
                    raise StoppedError(
                        f"Stopped by SIGTERM after {len(done)} of {len(grid)} trials. The features are "
                        "stored: the same command begins the trials again."
                    ) from error
                for trial in tried if self._devices.is_chief else ():
                    _log.info("trial %d/%d  %s", trial.number, len(grid), _line(trial))
                done += tried
        return done

    def _groups(self, combinations: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the combinations in order, those together that are trained side by side."""
        for hidden_units, same in itertools.groupby(combinations, key=lambda one: one["hidden_units"]):
            variables = (hidden_units or self._class_count) * self._head.model.input_shape[-1]
            # Weights, gradients and two moments, 4 bytes each.
            most = max(1, min(_MOST_SIDE_BY_SIDE, _BYTES_SIDE_BY_SIDE // (16 * variables)))
            while group := list(itertools.islice(same, most)):
                yield group

    def _try(
        self, number: int, group: Sequence[dict[str, Any]], on_images: Callable[[int], None]
    ) -> list[Trial]:
        """Train the trials from that number on."""
        started = time.monotonic()
        heads = [
            self._phase(f"head_{place}", dataclasses.replace(self._config, **combination))
            for place, combination in enumerate(group)
        ]
        results = train_in_parallel(heads, self._options, self._devices, self._stop, on_images)
        # The heads, a cycle of graphs and variables, would stay: gigabytes in the end.
        del heads
        gc.collect()
        seconds = round((time.monotonic() - started) / len(group), 3)
        count = len(self._head.validation.labels)
        figures = [_figures(result, count) for result in results]
        return [
            Trial(number=number + place, **group[place], **figures[place], count=count, seconds=seconds)
            for place in range(len(group))
        ]

    def _phase(self, name: str, config: TrainConfig) -> Phase:
        with self._devices.strategy.scope():
            random.setstate(self._random_state)
            feature_count = self._head.model.input_shape[-1]
            head = build_head(config, feature_count, self._class_count, name)
        return dataclasses.replace(
            self._head,
            model=head,
            variables=head.trainable_variables,
            learning_rate=config.learning_rate * self._scale,
        )


def _figures(result: list[Epoch] | DivergedError, count: int) -> dict[str, Any]:
    if isinstance(result, DivergedError):
        return {"note": f"diverged: {result}"}
    best = _best(result)
    return {
        "best_epoch": best.epoch,
        "val_accuracy": best.val_accuracy,
        "val_loss": best.val_loss,
        "correct": round(best.val_accuracy * count),
    }


def _best(history: Sequence[Epoch]) -> Epoch:
    best = history[0]
    for epoch in history:
        if epoch.is_better_than(best):
            best = epoch
    return best


def _line(trial: Trial) -> str:
    return (
        f"learning rate {trial.learning_rate:g}  hidden units {trial.hidden_units}  "
        f"dropout {trial.dropout:g}  {trial.in_words}  {trial.seconds:.1f} s"
    )
