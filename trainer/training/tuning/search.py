"""The search of `tune`: the head is trained with every combination of a grid, on the stored features.

The search is itertools.product and not KerasTuner (1.4.8), for three reasons:

- Its oracle calls threading.currentThread() and getName(), deprecated since Python 3.10, at every step: with
  warnings as errors (pyproject.toml) the search ends in a DeprecationWarning before the first trial.
- Tuner.search treats every exception of `run_trial` as a failed trial and continues with the next: SIGTERM's
  StoppedError, a full volume, a bug. After some failures in a row (3 by default) it ends the search, so
  learning rates that diverge end it as well. Only overriding its private methods changes that.
- It would contribute no more than the order of a grid: the training loop is our own (training/loop.py), and
  it has no objective that ranks by accuracy and then by loss.
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
from trainer.model import Architecture, build_backbone, build_head, join_head
from trainer.runtime import progress, storage
from trainer.runtime.stopping import Stop
from trainer.training.devices import Devices
from trainer.training.distribution import connect_devices, name_lost_worker
from trainer.training.inputs import prepare_inputs
from trainer.training.loop import Epoch, Phase, best_epoch
from trainer.training.phases import architecture_of, plan_training, step_options
from trainer.training.preflight import check_and_scan
from trainer.training.tuning import trials
from trainer.training.tuning.parallel import train_in_parallel
from trainer.training.tuning.summary import write_trials
from trainer.training.tuning.trials import Trial

_log = logging.getLogger(__name__)

_MAX_PARALLEL_TRIALS = 16
_MAX_PARALLEL_BYTES = 2**30
"""Limits of the trials in one call: with more, tracing takes longer than fewer calls save."""


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
    """Train a head with each combination of the grid for `config.epochs` epochs, and write their table.

    Each trial gives what `train` gives with its settings: the same initial weights, the same history.

    Args:
      stop: asks the search to end; None: nothing does.
    Raises:
      ConfigError: with --fine-tune-from or --no-feature-cache.
      DivergedError: every trial diverged; the table is written.
      TrainerError: another of its family, with which `train` would refuse the same settings.
    """
    _check(config)
    scan = check_and_scan(config)
    devices = connect_devices(
        config.distribution,
        os.environ,
        cpu_replicas=config.cpu_replicas,
        deterministic=config.deterministic,
    )
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
            f"At least one of {len(table)} trials must learn. Received: all of them diverged. Try "
            f"--learning-rates below {min(grid.learning_rates):g}."
        )
    return tuned


def _check(config: TrainConfig) -> None:
    if config.fine_tune_from is not None:
        raise ConfigError(
            "tune searches settings of the head, with the backbone frozen. Received: --fine-tune-from "
            f"{config.fine_tune_from}. Leave it out, and pass it to train with --from-trial best."
        )
    if not config.feature_cache:
        raise ConfigError("tune trains on the feature cache. Received: --no-feature-cache. Leave it out.")


class _Search:
    """The stored features, and what all trials have in common."""

    def __init__(self, config: TrainConfig, devices: Devices, stop: Stop, images: ScreenedImages) -> None:
        """Store the features of all images that are not stored yet."""
        self._epochs = config.epochs
        self._devices = devices
        self._stop = stop
        self._architecture = architecture_of(config, len(images.splits["train"].classes))
        with devices.strategy.scope():
            keras.utils.set_random_seed(config.seed)
            features = build_backbone(self._architecture)
            # Keras draws the seeds of initializers from Python's generator: from here on, the head's.
            self._random_state = random.getstate()
            head = build_head(self._architecture, features.output_shape[-1])
            network = join_head(features, head, fine_tune_from=None)
        image_size_px = self._architecture.image_size_px
        inputs = images.read(
            lambda splits: prepare_inputs(config, network, splits, image_size_px, devices, stop)
        )
        self._head = plan_training(config, network, inputs, devices.replicas).phases[0]
        self._options = step_options(config, images.splits["train"])
        # The factor that --scale-learning-rate gives: 1, or the number of replicas.
        self._scale = round(self._head.learning_rate / config.learning_rate)

    def run(self, grid: Grid) -> list[Trial]:
        """Train all combinations, in order.

        Raises:
          StoppedError: SIGTERM came.
        """
        done: list[Trial] = []
        images_per_trial = self._epochs * len(self._head.train.labels)
        with progress.bar("trials", len(grid) * images_per_trial) as advance:
            for group in self._groups(grid.combinations()):
                try:
                    tried = self._try(len(done) + 1, group, advance)
                except StoppedError as error:
                    raise StoppedError(
                        f"Stopped by SIGTERM after {len(done)} of {len(grid)} trials. The features are "
                        "stored: the same command starts the trials again."
                    ) from error
                for trial in tried if self._devices.is_chief else ():
                    _log.info("trial %d/%d  %s", trial.number, len(grid), _log_line(trial))
                done += tried
        return done

    def _groups(self, combinations: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the combinations in order, grouped by what is trained in parallel."""
        for hidden_units, same in itertools.groupby(combinations, key=lambda one: one["hidden_units"]):
            units = hidden_units or self._architecture.class_count
            variables = units * self._head.model.input_shape[-1]
            # Weights, gradients and two moments, 4 bytes each.
            most = max(1, min(_MAX_PARALLEL_TRIALS, _MAX_PARALLEL_BYTES // (16 * variables)))
            while group := list(itertools.islice(same, most)):
                yield group

    def _try(
        self, number: int, group: Sequence[dict[str, Any]], on_images: Callable[[int], None]
    ) -> list[Trial]:
        """Train the trials of a group, whose first has that number."""
        started = time.monotonic()
        heads = [self._phase(f"head_{place}", **combination) for place, combination in enumerate(group)]
        results = train_in_parallel(heads, self._options, self._devices, self._stop, on_images)
        # The heads are a cycle of graphs and variables, and would add up to gigabytes.
        del heads
        gc.collect()
        seconds = round((time.monotonic() - started) / len(group), 3)
        count = len(self._head.validation.labels)
        figures = [_figures(result, count) for result in results]
        return [
            Trial(number=number + place, **group[place], **figures[place], count=count, seconds=seconds)
            for place in range(len(group))
        ]

    def _phase(self, name: str, *, learning_rate: float, hidden_units: int, dropout: float) -> Phase:
        with self._devices.strategy.scope():
            random.setstate(self._random_state)
            architecture: Architecture = dataclasses.replace(
                self._architecture, hidden_units=hidden_units, dropout=dropout
            )
            head = build_head(architecture, self._head.model.input_shape[-1], name)
        return dataclasses.replace(
            self._head,
            model=head,
            variables=head.trainable_variables,
            learning_rate=learning_rate * self._scale,
        )


def _figures(result: list[Epoch] | DivergedError, count: int) -> dict[str, Any]:
    if isinstance(result, DivergedError):
        return {"note": f"diverged: {result}"}
    best = best_epoch(result)
    return {
        "best_epoch": best.epoch,
        "val_accuracy": best.val_accuracy,
        "val_loss": best.val_loss,
        "correct": round(best.val_accuracy * count),
    }


def _log_line(trial: Trial) -> str:
    return (
        f"learning rate {trial.learning_rate:g}  hidden units {trial.hidden_units}  "
        f"dropout {trial.dropout:g}  {trial.outcome}  {trial.seconds:.1f} s"
    )
