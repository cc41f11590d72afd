"""What a run writes down as it goes: log lines, TensorBoard events, history, best weights and the report."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import Splits, quality_warnings
from trainer.export import ExportCheck
from trainer.model import Architecture
from trainer.report.plots import write_learning_curves
from trainer.report.report import Report, Timings, write_report
from trainer.runtime import storage
from trainer.training import Devices, Epoch, MeasuredSplit, Plan, RunDirectory

_log = logging.getLogger(__name__)


class RunRecord:
    """The record of a worker that is not the chief: it writes nothing down."""

    def start(self, splits: Splits) -> None:
        """Note that the checks have passed."""

    def planned(self, plan: Plan, computed: int, seconds: float) -> None:
        """Note what will be trained.

        Args:
          computed: images and copies that went through the frozen layers.
          seconds: that this took.
        """

    def epoch(self, history: Sequence[Epoch], is_best: bool) -> None:
        """Note the last epoch of the history, and whether it is the best so far."""

    def trained(self, history: Sequence[Epoch]) -> None:
        """Note that training is over and that the model has its best weights."""

    def report(
        self, splits: Splits, measured: Mapping[str, MeasuredSplit], check: ExportCheck | None
    ) -> None:
        """Note what was measured.

        Args:
          check: of the exported version; None: nothing was exported.
        """

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Note how the run ended, for a later start of it."""


class ChiefRecord(RunRecord):
    """The record of the chief, in the run's directory: history.json, best.weights.h5, report.html, …"""

    def __init__(
        self,
        directory: RunDirectory,
        config: TrainConfig,
        architecture: Architecture,
        devices: Devices,
        timings: Timings,
    ) -> None:
        """Open TensorBoard's event files.

        Args:
          timings: of the run; read when the report is written.
        """
        self._directory = directory
        self._config = config
        self._architecture = architecture
        self._devices = devices
        self._timings = timings
        self._computed = 0
        self._history: Sequence[Epoch] = ()
        # Two event files, so that TensorBoard draws training and validation into one plot.
        self._events = {
            split: tf.summary.create_file_writer(str(directory.path / "tensorboard" / split))
            for split in ("train", "validation")
        }

    def start(self, splits: Splits) -> None:
        """Log what is trained on what, and what a person should look at in the images."""
        replicas = self._devices.replicas
        _log.info(
            "%s, %d px, weights %s; %d classes; images: %s; %d replica(s), global batch %d",
            self._config.backbone,
            self._architecture.image_size_px,
            self._config.weights,
            self._architecture.class_count,
            _image_counts(splits),
            replicas,
            self._config.batch_size * replicas,
        )
        for warning in quality_warnings(splits):
            _log.warning("%s", warning)

    def planned(self, plan: Plan, computed: int, seconds: float) -> None:
        """Log how fast the frozen layers were."""
        self._plan = plan
        self._computed = computed
        if computed:
            rate = computed / seconds
            _log.info("frozen layers: %d images in %.1f s (%.0f images/s)", computed, seconds, rate)

    def epoch(self, history: Sequence[Epoch], is_best: bool) -> None:
        """Log the epoch, and add it to history.json and to TensorBoard's events."""
        epoch = history[-1]
        self._directory.write(
            "history.json", json.dumps([dataclasses.asdict(one) for one in history], indent=2)
        )
        self._add_events(epoch, step=len(history))
        epochs = {phase.name: phase.epochs for phase in self._plan.phases}
        _log.info("%s%s", epoch.log_line(epochs[epoch.phase]), "  best so far" if is_best else "")

    def _add_events(self, epoch: Epoch, step: int) -> None:
        figures = {
            "train": {"loss": epoch.loss, "accuracy": epoch.accuracy},
            "validation": {"loss": epoch.val_loss, "accuracy": epoch.val_accuracy},
        }
        for split, writer in self._events.items():
            with writer.as_default(step=step):
                for name, value in figures[split].items():
                    tf.summary.scalar(f"epoch_{name}", value)
            writer.flush()

    def trained(self, history: Sequence[Epoch]) -> None:
        """Save the best weights."""
        self._history = history
        with storage.explain_errors("The run's files cannot be written", self._directory.path):
            self._plan.phases[-1].model.save_weights(self._directory.path / "best.weights.h5")

    def report(
        self, splits: Splits, measured: Mapping[str, MeasuredSplit], check: ExportCheck | None
    ) -> None:
        """Write the learning curves, report.html and report.json."""
        path, config, devices = self._directory.path, self._config, self._devices
        write_learning_curves(self._history, path / "learning_curves.png")
        write_report(
            path,
            Report(
                title=f"{config.name}, run {self._directory.run_id}",
                facts={
                    "backbone": f"{config.backbone}, weights {Path(config.weights).name}",
                    "image size": f"{self._architecture.image_size_px} px",
                    "trained": " and ".join(phase.name for phase in self._plan.phases),
                    "images": _image_counts(splits),
                    "devices": f"{devices.replicas} replica(s) on {devices.workers} worker(s)",
                    "precision": config.precision,
                    **({"export check": check.summary()} if check else {}),
                },
                history=self._history,
                results=[split.result for split in measured.values()],
                stages=self._timings.seconds,
                image_counts={"frozen layers": self._computed, **self._plan.image_counts},
                warnings=[*(check.warnings() if check else ()), *quality_warnings(splits)],
            ),
        )

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Write outcome.json; a later start of the run returns it, and trains nothing."""
        self._directory.end(outcome)


def _image_counts(splits: Splits) -> str:
    return ", ".join(f"{len(images)} {split}" for split, images in splits.items())
