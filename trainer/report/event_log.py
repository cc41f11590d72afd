"""Each epoch's figures for TensorBoard: `tensorboard --logdir MODEL_DIR/NAME/.runs`."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from trainer.training import Epoch


class EventLog:
    """Two event files, so that TensorBoard draws training and validation into one plot."""

    def __init__(self, directory: Path) -> None:
        self._writers = {
            split: tf.summary.create_file_writer(str(directory / split)) for split in ("train", "validation")
        }

    def add(self, epoch: Epoch, step: int) -> None:
        """Write one epoch.

        Args:
          step: its place in the run's history, from 1.
        """
        figures = {
            "train": {"loss": epoch.loss, "accuracy": epoch.accuracy},
            "validation": {"loss": epoch.val_loss, "accuracy": epoch.val_accuracy},
        }
        for split, writer in self._writers.items():
            with writer.as_default(step=step):
                for name, value in figures[split].items():
                    tf.summary.scalar(f"epoch_{name}", value)
            writer.flush()
