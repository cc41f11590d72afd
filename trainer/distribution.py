"""The tf.distribute strategy from what is visible or asked for, and a forward pass spread over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import DeviceError


def mirrored_strategy(cpu_replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """Return a MirroredStrategy over every visible GPU, or over N logical CPU devices.

    Args:
      cpu_replicas: how many logical CPU devices; None: the GPUs, or one CPU if there is no GPU.
    Raises:
      DeviceError: TensorFlow has started with fewer logical CPU devices than asked for.
    """
    gpus = tf.config.list_physical_devices("GPU") if cpu_replicas is None else []
    if not gpus:
        _configure_logical_cpus(cpu_replicas or 1)
    devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices[: cpu_replicas or len(devices)]])


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


class Forward:
    """A model in inference mode over the replicas; traced once, however often it is called."""

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._on_replicas = tf.function(
            lambda inputs: strategy.run(lambda part: model(part, training=False), args=(inputs,)),
            reduce_retracing=True,
        )

    def __call__(
        self, batches: tf.data.Dataset, on_images: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """Return the outputs for all batches, float32 (number of examples, outputs), in their order.

        Args:
          batches: inputs only; each batch is dealt to the replicas.
          on_images: told how many examples each step has read.
        """
        return np.concatenate(list(self._outputs(batches, on_images)))

    def _outputs(self, batches: tf.data.Dataset, on_images: Callable[[int], None]) -> Iterator[np.ndarray]:
        for inputs in self._strategy.experimental_distribute_dataset(batches):
            # A batch is dealt to the replicas in order, so joining their parts restores it.
            parts = self._strategy.experimental_local_results(self._on_replicas(inputs))
            joined = np.concatenate([part.numpy() for part in parts])
            on_images(len(joined))
            yield joined
