"""The tf.distribute strategy from what is visible or asked for, and a forward pass spread over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import DeviceError

Rows: TypeAlias = "np.ndarray | tf.Tensor"
"""Examples along the first axis."""


def mirrored_strategy(cpu_replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """Return a MirroredStrategy over every visible GPU, or over N logical CPU devices.

    Args:
      cpu_replicas: how many logical CPU devices; None: the GPUs, or one CPU if there is no GPU.
    Raises:
      DeviceError: TensorFlow has started with fewer logical CPU devices than asked for.
    """
    gpus = tf.config.list_physical_devices("GPU") if cpu_replicas is None else []
    if gpus:
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(len(gpus))])
    replicas = cpu_replicas or 1
    _configure_logical_cpus(replicas)
    return tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(replicas)],
        # Collective operations on CPUs cannot be used by a second strategy in one process: the runtime
        # remembers the keys of the first, and fails with "Shape mismatch in the collective instance".
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _configure_logical_cpus(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = len(tf.config.get_logical_device_configuration(cpu) or [cpu])
    if configured >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:  # devices are fixed once TensorFlow has run anything
        raise DeviceError(
            f"--cpu-replicas {count}: TensorFlow is running already with {configured} logical CPU "
            "device(s). Ask for them before anything else uses TensorFlow."
        ) from error


def deal(strategy: tf.distribute.Strategy, rows: Rows) -> tf.distribute.DistributedValues:
    """Deal a global batch to the replicas: equal parts in order, the first ones a row more if need be.

    `experimental_distribute_dataset` takes 0.1 s to set up for each pass, longer than an epoch on stored
    features; this takes less than 0.1 ms a batch. A replica may get no row of a last batch.
    """
    each, remainder = divmod(len(rows), strategy.num_replicas_in_sync)

    def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        replica = context.replica_id_in_sync_group
        start = replica * each + min(replica, remainder)
        return tf.convert_to_tensor(rows[start : start + each + (replica < remainder)])

    return strategy.experimental_distribute_values_from_function(part)


class Forward:
    """A model in inference mode over the replicas; traced once, however often it is called."""

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._on_replicas = tf.function(
            lambda inputs: strategy.run(lambda part: model(part, training=False), args=(inputs,)),
            reduce_retracing=True,
        )

    def __call__(
        self, batches: Iterable[Rows], on_images: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """Return the outputs for all batches, float32 (number of examples, outputs), in their order.

        Args:
          batches: inputs only; each is dealt to the replicas.
          on_images: told how many examples each step has read.
        """
        outputs = []
        for inputs in batches:
            on_replicas = self._on_replicas(deal(self._strategy, inputs))
            outputs += [part.numpy() for part in self._strategy.experimental_local_results(on_replicas)]
            on_images(len(inputs))
        return np.concatenate(outputs)
