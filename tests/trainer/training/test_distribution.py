import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError, DeviceError
from trainer.training.devices import Devices
from trainer.training.distribution import connect_devices, mirrored_devices
from trainer.training.forward import Forward


@pytest.mark.parametrize("replicas", [1, 2])
def test_mirrored_over_logical_cpus(replicas: int) -> None:
    devices = connect_devices("auto", {}, cpu_replicas=replicas)
    assert isinstance(devices.strategy, tf.distribute.MirroredStrategy)
    assert (devices.replicas, devices.workers, devices.is_chief) == (replicas, 1, True)


def test_one_device_though_there_are_more() -> None:
    assert connect_devices("one", {}, cpu_replicas=2).replicas == 1


def test_without_gpus_it_is_one_cpu() -> None:
    assert connect_devices("auto", {}).replicas == 1


def test_more_replicas_than_tensorflow_started_with_are_refused() -> None:
    with pytest.raises(DeviceError, match="--cpu-replicas 5"):
        mirrored_devices(5)


def test_multi_worker_without_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        connect_devices("multi-worker", {})


def test_mirrored_does_not_look_for_workers() -> None:
    assert connect_devices("mirrored", {"TF_CONFIG": "nonsense"}, cpu_replicas=2).workers == 1


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Any number of replicas: the shards do not depend on the devices."""

    num_replicas_in_sync: int


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("local_replicas", [1, 2, 4])
def test_the_workers_shards_are_the_batch_without_loss_or_repetition(
    workers: int, local_replicas: int
) -> None:
    for count in range(3 * workers * local_replicas + 2):
        rows = np.arange(count)
        shards = [
            Devices(Replicas(workers * local_replicas), worker, workers).worker_shard(rows)
            for worker in range(workers)
        ]
        np.testing.assert_array_equal(np.concatenate(shards), rows)
        assert max(map(len, shards)) - min(map(len, shards)) <= local_replicas


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("batch_size", [3, 4])  # 3: two replicas get unequal parts
@pytest.mark.parametrize("count", [1, 8, 13])  # a last batch of 1 leaves a replica without any
def test_forward_keeps_the_order_and_every_example(replicas: int, batch_size: int, count: int) -> None:
    devices = mirrored_devices(replicas)
    with devices.strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    inputs = np.arange(count, dtype=np.float32)[:, None]
    batches = [inputs[start : start + batch_size] for start in range(0, count, batch_size)]
    outputs = [output for (output,) in Forward(model, devices).stream(batches)]
    np.testing.assert_array_equal(np.concatenate(outputs), 2 * inputs)


def test_forward_traces_the_network_once_for_all_batch_sizes() -> None:
    devices = mirrored_devices(1)
    traces = 0

    class Counted(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            nonlocal traces
            traces += 1
            return inputs

    model = keras.Sequential([keras.Input((1,)), Counted()])
    traces = 0
    list(Forward(model, devices).stream([np.zeros((size, 1), np.float32) for size in (8, 16, 3, 8)]))
    assert traces == 1
