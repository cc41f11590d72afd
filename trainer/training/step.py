"""One step of training on a global batch, exact under any number of replicas and workers.

Keras' `fit` is not used, because under tf.distribute it logs the unweighted mean of each replica's
mean, scales a partial batch wrongly and fails under MultiWorkerMirroredStrategy
(https://github.com/keras-team/keras/issues/20585).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import tensorflow as tf

from trainer.model import Loss, top_class
from trainer.training.devices import Devices
from trainer.training.feed import PerReplicaBatch

ReplicaStep: TypeAlias = "Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]"
GlobalStep: TypeAlias = "Callable[[PerReplicaBatch], tf.Tensor]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What is the same in all steps of a run.

    Attributes:
      batch_size: examples per replica and step.
      class_weights: float (K,): the weight of an example of each class in the gradient; mean 1.
      loss_scaling: scale the loss of float16 networks, whose gradients would vanish.
      xla: compile each replica's part of a step.
    """

    loss: Loss
    batch_size: int
    seed: int
    class_weights: Sequence[float]
    loss_scaling: bool = False
    xla: bool = False


def make_optimizer(
    variables: Sequence[keras.Variable], learning_rate: float, options: StepOptions
) -> keras.optimizers.Optimizer:
    """Return Adam for these variables, built in the current strategy scope."""
    optimizer = FusedAdam(learning_rate)
    if options.loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def replica_step(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    options: StepOptions,
) -> ReplicaStep:
    """Return what one replica does with its part of a global batch.

    Returns:
      inputs (N, …), int32 labels (N,), float32 (1,) > 0 if the process is asked to stop →
      float32 [sum of losses, correct, examples, stopping].
    """
    class_weights = tf.constant(options.class_weights, tf.float32)

    def gradients(
        inputs: tf.Tensor, labels: tf.Tensor, global_count: tf.Tensor, loss_scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(tf.cast(inputs, model.inputs[0].dtype), training=True)
            losses = options.loss(labels, logits)
            weighted = tf.reduce_sum(losses * tf.gather(class_weights, labels)) / global_count
            scaled = weighted * loss_scale
        correct = tf.reduce_sum(tf.cast(top_class(logits) == labels, tf.float32))
        return tape.gradient(scaled, [v.value for v in variables]), tf.reduce_sum(losses), correct

    if options.xla:
        gradients = tf.function(gradients, jit_compile=True, reduce_retracing=True, autograph=False)

    def step(inputs: tf.Tensor, labels: tf.Tensor, stopping: tf.Tensor) -> tf.Tensor:
        count = tf.cast(tf.shape(labels)[0], tf.float32)
        # The mean over all replicas' examples; a replica that got none of a last batch adds zero.
        global_count = tf.distribute.get_replica_context().all_reduce("SUM", count)
        loss_scale = optimizer.scale_loss(tf.constant(1.0))
        changes, loss_sum, correct = gradients(inputs, labels, global_count, loss_scale)
        optimizer.apply(changes, variables)
        return tf.stack([loss_sum, correct, count, tf.reduce_sum(stopping)])

    return step


def compile_steps(steps: Sequence[ReplicaStep], devices: Devices) -> GlobalStep:
    """Return the function that takes these steps on the same global batch, all in one call.

    Returns:
      A batch from `Feed` → float32 (len(steps), 4), sums over all replicas.
    """
    strategy = devices.strategy

    def on_each_replica(inputs: tf.Tensor, labels: tf.Tensor, stopping: tf.Tensor) -> tf.Tensor:
        return tf.stack([step(inputs, labels, stopping) for step in steps])

    def on_all_replicas(batch: PerReplicaBatch) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_each_replica, args=batch), axis=None)

    function = tf.function(on_all_replicas, reduce_retracing=True, autograph=False)
    if devices.local_replicas > 1:
        return function  # type: ignore[no-any-return]  # TensorFlow has no types
    concrete: GlobalStep | None = None

    def traced_once(batch: PerReplicaBatch) -> tf.Tensor:
        # For batches of any size, so that a smaller last batch is not traced again.
        nonlocal concrete
        if concrete is None:
            any_size = tuple(tf.TensorSpec((None, *one.shape[1:]), one.dtype) for one in batch)
            concrete = function.get_concrete_function(any_size)
        return concrete(batch)

    return traced_once


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Keras' Adam with TensorFlow's kernel: the same formula in one pass over memory instead of twelve.

    With a hidden layer of 1,000 units on 2,048 features, Keras' own takes longer than the gradients.
    (The name has no leading underscore, because TensorFlow makes a name scope of it.)

    Source: https://www.tensorflow.org/api_docs/python/tf/raw_ops/ResourceApplyAdam.
    """

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Update one variable and its two moments."""
        index = self._get_variable_index(variable)
        steps = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, steps),
            beta2_power=tf.pow(self.beta_2, steps),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
