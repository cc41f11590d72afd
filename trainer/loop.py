"""One phase of training under way: its steps, exact under any number of replicas and workers.

Keras' `fit` is not used, because under tf.distribute it logs the unweighted mean of each replica's
mean, scales a partial batch wrongly and fails under MultiWorkerMirroredStrategy
(https://github.com/keras-team/keras/issues/20585).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from trainer import evaluation
from trainer.adam import FusedAdam
from trainer.checkpoint import Checkpoint
from trainer.classifier import Loss, top_class
from trainer.distribution import Devices, Forward, Rows
from trainer.errors import DivergedError
from trainer.stopping import Stop

Batches = Iterable[tuple[Rows, Rows]]
TrainStep = Callable[[tuple[tf.Tensor, tf.Tensor, tf.Tensor]], tf.Tensor]


class Examples(Protocol):
    """A split that the loop can read in any order, as often as it likes.

    Example j is view j // count of image j % count, count being the number of labels.
    """

    @property
    def labels(self) -> np.ndarray:
        """int32 (count,)."""

    @property
    def views(self) -> int:
        """How many examples there are of each image."""

    def batches(self, order: np.ndarray, batch_size: int) -> Batches:
        """Return batches (inputs, labels) of the examples in that order; the last may be smaller."""


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

    def in_words(self, epochs: int) -> str:
        """Return the line of a Job's log."""
        return (
            f"{self.phase} epoch {self.epoch}/{epochs}  loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  "
            f"val_loss {self.val_loss:.4f}  val_accuracy {self.val_accuracy:.4f}  {self.seconds:.1f} s"
        )

    def is_better_than(self, other: Epoch | None) -> bool:
        """Compare by validation accuracy, ties by validation loss."""
        return other is None or (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """What is trained on what.

    Attributes:
      name: "head" or "fine-tune".
      model: from the examples' inputs to logits.
      variables: those that are trained.
      train: split whose gradients are followed.
      validation: split that decides which epoch is the best.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is the same in all phases of a run.

    Attributes:
      batch_size: examples per replica and step.
      class_weights: float (K,): how much an example of each class counts in the gradient; mean 1.
      loss_scaling: for gradients in float16, which would vanish.
      xla: compile each replica's part of a step.
    """

    loss: Loss
    batch_size: int
    seed: int
    class_weights: Sequence[float]
    loss_scaling: bool = False
    xla: bool = False


class Loop:
    """One phase under way: its optimizer, where it stands, and the best weights so far.

    The order of the examples in epoch e depends on (seed, e) alone, and gradients are means over the
    global batch, so that one replica and many, on one worker or several, give the same history (but for
    dropout, whose masks are drawn on each replica).

    Attributes:
      epoch: from 1; the one that is under way.
      step: how many of its steps are done.
    """

    def __init__(self, phase: Phase, options: Options, devices: Devices) -> None:
        self.phase = phase
        self.epoch, self.step = 1, 0
        self._sums = np.zeros(3)  # of losses, of right answers, of examples
        self._options = options
        self._devices = devices
        with devices.strategy.scope():
            self._optimizer = FusedAdam(phase.learning_rate)
            if options.loss_scaling:
                self._optimizer = keras.optimizers.LossScaleOptimizer(self._optimizer)
            self._optimizer.build(phase.variables)
        weights = {id(variable) for variable in phase.model.weights}
        random_state = [variable for variable in phase.model.variables if id(variable) not in weights]
        self._variables = [*phase.variables, *random_state]
        self._train_step = _train_step(phase, self._optimizer, options, devices)
        self._forward = Forward(phase.model, devices, xla=options.xla)
        self._batch_size = options.batch_size * devices.local_replicas
        self.keep_best()

    def keep_best(self) -> None:
        """Take the weights as they are for the best so far."""
        self._best = _values(self.phase.variables)

    def assign_best(self) -> None:
        """Give the model the best weights so far."""
        _assign(self.phase.variables, self._best)

    def checkpoint(self, position: Mapping[str, object]) -> Checkpoint:
        """Return all of its state, to go on from here.

        Args:
          position: more of the position, which it does not know.
        """
        here = {"phase": self.phase.name, "epoch": self.epoch, "step": self.step, "sums": list(self._sums)}
        return Checkpoint(
            position={**position, **here},
            variables=_values(self._variables),
            optimizer=_values(self._optimizer.variables),
            best=self._best,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint was taken."""
        self.epoch, self.step = checkpoint.position["epoch"], checkpoint.position["step"]
        self._sums = np.array(checkpoint.position["sums"])
        _assign(self._variables, checkpoint.variables)
        _assign(self._optimizer.variables, checkpoint.optimizer)
        self._best = list(checkpoint.best)

    def begin_with(self, start: Checkpoint, learning_rate: float) -> None:
        """Stand at the beginning again, with another learning rate: nothing is traced a second time."""
        self.restore(start)
        self.phase = dataclasses.replace(self.phase, learning_rate=learning_rate)
        self._optimizer.learning_rate = learning_rate

    def steps(self, stop: Stop) -> Iterator[tuple[int, bool]]:
        """Train on what is left of the epoch; yield examples read, and whether a worker is to stop."""
        order = self._order()
        global_batch_size = self._options.batch_size * self._devices.replicas
        starts = range(self.step * global_batch_size, len(order), global_batch_size)
        mine = [self._devices.share(order[start : start + global_batch_size]) for start in starts]
        batches = iter(self.phase.train.batches(np.concatenate([order[:0], *mine]), self._batch_size))
        none: tuple[Rows, Rows] | None = None
        for rows in mine:
            # Of a last batch there may be nothing left for this worker; the others still wait for it.
            inputs, labels = next(batches) if len(rows) else none or self._nothing()
            none = (inputs[:0], labels[:0])
            deal = self._devices.deal
            stopping = deal(np.full(self._devices.local_replicas, stop.requested, np.float32))
            *sums, stopped = map(float, self._train_step((deal(inputs), deal(labels), stopping)).numpy())
            self._sums += sums
            self.step += 1
            yield int(sums[2]), stopped > 0

    def _nothing(self) -> tuple[Rows, Rows]:
        shape = self.phase.model.input_shape[1:]
        return np.zeros((0, *shape), np.float32), np.zeros(0, np.int32)

    def _order(self) -> np.ndarray:
        """Return the epoch's examples: each image once, as itself or as one of its copies."""
        rng = np.random.default_rng((self._options.seed, self.epoch))
        train = self.phase.train
        order = rng.permutation(len(train.labels))
        if train.views > 1:
            order += len(train.labels) * rng.integers(train.views, size=len(order))
        return order

    def finish_epoch(self, seconds: float) -> Epoch:
        """Measure the epoch on the validation split, and stand at the beginning of the next."""
        started = time.monotonic()
        phase, validation = self.phase, self.phase.validation
        loss_sum, correct, count = self._sums
        logits = logits_of(self._forward, validation, self._batch_size, self._devices)
        measured = evaluation.measure(logits, validation.labels, self._options.loss)
        mean_loss = loss_sum / count
        # Both: the last step's update shows in the validation loss only.
        if not math.isfinite(mean_loss) or not math.isfinite(measured.loss):
            raise DivergedError(
                f"The loss must stay finite. Received: loss {mean_loss}, validation loss {measured.loss} in "
                f"{phase.name} epoch {self.epoch} with a learning rate of {phase.learning_rate}. "
                f"Try {phase.learning_rate / 10:g}."
            )
        seconds += time.monotonic() - started
        epoch = Epoch(
            phase.name,
            self.epoch,
            mean_loss,
            correct / count,
            measured.loss,
            measured.accuracy,
            seconds,
        )
        self.epoch, self.step, self._sums = self.epoch + 1, 0, np.zeros(3)
        return epoch


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _train_step(
    phase: Phase, optimizer: keras.optimizers.Optimizer, options: Options, devices: Devices
) -> TrainStep:
    """Return the function that trains on one global batch → [sum of losses, correct, examples, stopping]."""
    model, strategy = phase.model, devices.strategy
    class_weights = tf.constant(options.class_weights, tf.float32)

    @tf.function(jit_compile=options.xla, reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def gradients(
        inputs: tf.Tensor, labels: tf.Tensor, global_count: tf.Tensor, loss_scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(tf.cast(inputs, model.inputs[0].dtype), training=True)
            losses = options.loss(labels, logits)
            weighted = tf.reduce_sum(losses * tf.gather(class_weights, labels)) / global_count
            scaled = weighted * loss_scale
        correct = tf.reduce_sum(tf.cast(top_class(logits) == labels, tf.float32))
        return tape.gradient(scaled, [v.value for v in phase.variables]), tf.reduce_sum(losses), correct

    def on_replica(inputs: tf.Tensor, labels: tf.Tensor, stopping: tf.Tensor) -> tf.Tensor:
        count = tf.cast(tf.shape(labels)[0], tf.float32)
        # The mean over all replicas' examples; a replica that got none of a last batch adds zero.
        global_count = tf.distribute.get_replica_context().all_reduce("SUM", count)
        loss_scale = optimizer.scale_loss(tf.constant(1.0))
        changes, loss_sum, correct = gradients(inputs, labels, global_count, loss_scale)
        optimizer.apply(changes, phase.variables)
        return tf.stack([loss_sum, correct, count, tf.reduce_sum(stopping)])

    def step(batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_replica, args=batch), axis=None)

    compiled: TrainStep = tf.function(step, reduce_retracing=True, autograph=False)
    return compiled


def logits_of(forward: Forward, examples: Examples, batch_size: int, devices: Devices) -> np.ndarray:
    """Return the logits of each example once, in the examples' own order, float32 (count, K or 1).

    Each worker computes its share, and gets those of the others.
    """
    mine = devices.share(np.arange(len(examples.labels)))
    logits = np.zeros((len(examples.labels), forward.model.output_shape[-1]), np.float32)
    if len(mine):
        logits[mine] = forward(inputs for inputs, _ in examples.batches(mine, batch_size))
    return devices.sum(logits).astype(np.float32)
