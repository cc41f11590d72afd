"""One phase of training: its progress, its figures, and its best weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from trainer.errors import DivergedError
from trainer.runtime.stopping import Stop
from trainer.training.checkpoint import Checkpoint
from trainer.training.devices import Devices
from trainer.training.feed import Examples, Feed
from trainer.training.forward import Forward, compute_logits
from trainer.training.metrics import measure_logits
from trainer.training.step import StepOptions, compile_steps, make_optimizer, replica_step


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch's figures; means are over examples, each counted once."""

    phase: str
    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float

    def log_line(self, epochs: int) -> str:
        """Return the line of a Job's log.

        Args:
          epochs: number of epochs of the phase.
        """
        return (
            f"{self.phase} epoch {self.epoch}/{epochs}  loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  "
            f"val_loss {self.val_loss:.4f}  val_accuracy {self.val_accuracy:.4f}  {self.seconds:.1f} s"
        )


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """Return the first epoch with the highest validation accuracy; ties go to the lowest validation loss.

    Args:
      history: at least one epoch.
    """
    return max(history, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Which variables are trained, on which examples.

    Attributes:
      name: "head" or "fine-tune".
      model: maps the examples' inputs to logits.
      variables: are trained.
      train: the split whose gradients are followed.
      validation: the split that decides which epoch is the best.
      learning_rate: Adam's.
      epochs: passes over `train`.
    """

    name: str
    model: keras.Model
    variables: Sequence[keras.Variable]
    train: Examples
    validation: Examples
    learning_rate: float
    epochs: int


class Loop:
    """One phase in progress: its optimizer, its position, and the best weights so far.

    Gradients are means over the global batch, so that one replica and many, on one worker or several, give
    the same history (except for dropout, whose masks are drawn on each replica).

    Attributes:
      epoch: the current one, from 1.
      step: number of its steps that are done.
      replica_step: one step of it, to be compiled with those of other loops.
    """

    def __init__(self, phase: Phase, options: StepOptions, devices: Devices) -> None:
        self.phase = phase
        self.epoch, self.step = 1, 0
        self._sums = np.zeros(3)  # of losses, correct answers and examples
        self._options = options
        self._devices = devices
        with devices.strategy.scope():
            self._optimizer = make_optimizer(phase.variables, phase.learning_rate, options)
        weights = {id(variable) for variable in phase.model.weights}
        random_state = [variable for variable in phase.model.variables if id(variable) not in weights]
        self._variables = [*phase.variables, *random_state]
        self.replica_step = replica_step(phase.model, phase.variables, self._optimizer, options)
        self._train_step = compile_steps([self.replica_step], devices)
        self._forward = Forward(phase.model, devices, xla=options.xla)
        self.keep_best()

    def keep_best(self) -> None:
        """Keep the current weights as the best so far."""
        self._best = _values(self.phase.variables)

    def assign_best(self) -> None:
        """Give the model the best weights so far."""
        _assign(self.phase.variables, self._best)

    def checkpoint(self, position: Mapping[str, object]) -> Checkpoint:
        """Return all of the state that a resumed run needs.

        Args:
          position: entries of the position that the caller adds.
        """
        here = {"phase": self.phase.name, "epoch": self.epoch, "step": self.step, "sums": list(self._sums)}
        return Checkpoint(
            position={**position, **here},
            variables=_values(self._variables),
            optimizer=_values(self._optimizer.variables),
            best=self._best,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Return to the state in which a checkpoint was taken."""
        self.epoch, self.step = checkpoint.position["epoch"], checkpoint.position["step"]
        self._sums = np.array(checkpoint.position["sums"])
        _assign(self._variables, checkpoint.variables)
        _assign(self._optimizer.variables, checkpoint.optimizer)
        self._best = list(checkpoint.best)

    def steps(self, stop: Stop) -> Iterator[tuple[int, bool]]:
        """Train on the rest of the epoch; yield examples read, and whether any worker is asked to stop."""
        for batch in make_feed(self.phase, self._options, self._devices).steps(self.epoch, self.step, stop):
            (sums,) = self._train_step(batch).numpy()
            yield self.count(sums)

    def count(self, sums: np.ndarray) -> tuple[int, bool]:
        """Add a step's sums to the epoch's; return examples read, and whether any worker is asked to stop."""
        *summed, stopping = map(float, sums)
        self._sums += summed
        self.step += 1
        return int(summed[2]), stopping > 0

    def finish_epoch(self, seconds: float) -> Epoch:
        """Measure the epoch on the validation split, and move to the next.

        Args:
          seconds: that its steps took.
        Raises:
          DivergedError: the loss is not finite.
        """
        started = time.monotonic()
        batch_size = self._options.batch_size * self._devices.local_replicas
        (logits,) = compute_logits(self._forward, self.phase.validation, batch_size, self._devices)
        return self.measure_epoch(logits, seconds + time.monotonic() - started)

    def measure_epoch(self, validation_logits: np.ndarray, seconds: float) -> Epoch:
        """Do what `finish_epoch` does, with validation logits that are known: float32 (count, K or 1)."""
        phase, number = self.phase, self.epoch
        loss_sum, correct, count = self._sums
        self.epoch, self.step, self._sums = number + 1, 0, np.zeros(3)
        measured = measure_logits(validation_logits, phase.validation.labels, self._options.loss)
        mean_loss = loss_sum / count
        # Both: the last step's update shows in the validation loss only.
        if not math.isfinite(mean_loss) or not math.isfinite(measured.loss):
            raise DivergedError(
                f"The loss must stay finite. Received: loss {mean_loss}, validation loss {measured.loss} in "
                f"{phase.name} epoch {number} with a learning rate of {phase.learning_rate}. "
                f"Try {phase.learning_rate / 10:g}."
            )
        return Epoch(
            phase.name, number, mean_loss, correct / count, measured.loss, measured.accuracy, seconds
        )


def make_feed(phase: Phase, options: StepOptions, devices: Devices) -> Feed:
    """Return the batches that a phase trains on."""
    return Feed(phase.train, phase.model.input_shape[1:], options.batch_size, options.seed, devices)


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
