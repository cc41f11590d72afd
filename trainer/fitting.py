"""The training loop: exact under any number of replicas, the best epoch's weights kept.

Keras' `fit` is not used, because under tf.distribute it logs the unweighted mean of each replica's
mean, scales a partial batch wrongly and fails under MultiWorkerMirroredStrategy
(https://github.com/keras-team/keras/issues/20585).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from trainer import distribution, evaluation
from trainer.classifier import Loss, top_class
from trainer.distribution import Forward, Rows
from trainer.errors import DivergedError

Batches = Iterable[tuple[Rows, Rows]]
TrainStep = Callable[[tuple[tf.Tensor, tf.Tensor]], list[tf.Tensor]]


class Examples(Protocol):
    """A split that the loop can read in any order, as often as it likes."""

    @property
    def labels(self) -> np.ndarray:
        """int32 (count,)."""

    def batches(self, order: np.ndarray, batch_size: int) -> Batches:
        """Return batches (inputs, labels) of the examples in that order; the last may be smaller."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch's figures; means are over examples, each counted once."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float

    def in_words(self, epochs: int) -> str:
        """Return the line of a Job's log."""
        return (
            f"epoch {self.epoch}/{epochs}  loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  "
            f"val_loss {self.val_loss:.4f}  val_accuracy {self.val_accuracy:.4f}  {self.seconds:.1f} s"
        )

    def is_better_than(self, other: Epoch | None) -> bool:
        """Compare by validation accuracy, ties by validation loss."""
        return other is None or (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


def fit(
    model: keras.Model,
    train: Examples,
    validation: Examples,
    *,
    strategy: tf.distribute.Strategy,
    loss: Loss,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    on_epoch: Callable[[Epoch, bool], None] = lambda epoch, is_best: None,
    on_images: Callable[[int], None] = lambda count: None,
) -> tuple[Epoch, ...]:
    """Train with Adam and leave the model with the weights of its best epoch.

    The order of the examples in epoch e depends on (seed, e) alone, and gradients are means over the
    global batch, so that one replica and many give the same history (but for dropout, whose masks are
    drawn on each replica).

    Args:
      batch_size: examples per replica and step.
      on_epoch: told of each epoch and whether it is the best so far (the model then holds its weights).
      on_images: told how many examples each step has read.
    Raises:
      DivergedError: the loss is not a number any more.
    """
    with strategy.scope():
        optimizer = keras.optimizers.Adam(learning_rate)
        optimizer.build(model.trainable_variables)
    forward = Forward(model, strategy)
    step = _train_step(model, optimizer, loss, strategy)
    global_batch_size = batch_size * strategy.num_replicas_in_sync
    history: list[Epoch] = []
    best: Epoch | None = None
    best_weights = model.get_weights()
    for number in range(1, epochs + 1):
        started = time.monotonic()
        order = np.random.default_rng((seed, number)).permutation(len(train.labels))
        mean_loss, accuracy = _train_epoch(step, train.batches(order, global_batch_size), strategy, on_images)
        measured = evaluation.measure(
            logits_of(forward, validation, global_batch_size), validation.labels, loss
        )
        # Both: the last step's update shows in the validation loss only.
        if not math.isfinite(mean_loss) or not math.isfinite(measured.loss):
            raise DivergedError(
                f"The loss must stay finite. Received: loss {mean_loss}, validation loss {measured.loss} in "
                f"epoch {number} with --learning-rate {learning_rate}. Try {learning_rate / 10:g}."
            )
        seconds = time.monotonic() - started
        epoch = Epoch(number, mean_loss, accuracy, measured.loss, measured.accuracy, seconds)
        history.append(epoch)
        is_best = epoch.is_better_than(best)
        if is_best:
            best, best_weights = epoch, model.get_weights()
        on_epoch(epoch, is_best)
    model.set_weights(best_weights)
    return tuple(history)


def _train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Loss,
    strategy: tf.distribute.Strategy,
) -> TrainStep:
    """Return the function that trains on one global batch → [sum of losses, correct, examples]."""

    def on_replica(inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        count = tf.cast(tf.shape(labels)[0], tf.float32)
        # The mean over all replicas' examples; a replica that got none of a last batch adds zero.
        global_count = tf.distribute.get_replica_context().all_reduce("SUM", count)
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss_sum = tf.reduce_sum(loss(labels, logits))
            mean_loss = loss_sum / global_count
        gradients = tape.gradient(mean_loss, model.trainable_variables)
        optimizer.apply(gradients)
        correct = tf.reduce_sum(tf.cast(top_class(logits) == labels, tf.float32))
        return loss_sum, correct, count

    def step(batch: tuple[tf.Tensor, tf.Tensor]) -> list[tf.Tensor]:
        return [strategy.reduce("SUM", value, axis=None) for value in strategy.run(on_replica, args=batch)]

    compiled: TrainStep = tf.function(step, reduce_retracing=True)
    return compiled


def _train_epoch(
    step: TrainStep,
    batches: Batches,
    strategy: tf.distribute.Strategy,
    on_images: Callable[[int], None],
) -> tuple[float, float]:
    totals = np.zeros(3)
    for inputs, labels in batches:
        batch = (distribution.deal(strategy, inputs), distribution.deal(strategy, labels))
        result = np.array([value.numpy() for value in step(batch)])
        totals += result
        on_images(int(result[2]))
    loss_sum, correct, count = totals
    return loss_sum / count, correct / count


def logits_of(forward: Forward, examples: Examples, batch_size: int) -> np.ndarray:
    """Return the logits of each example once, in the examples' own order."""
    in_order = np.arange(len(examples.labels))
    return forward(inputs for inputs, _ in examples.batches(in_order, batch_size))
