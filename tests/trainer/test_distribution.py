import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import distribution
from trainer.distribution import Forward
from trainer.errors import DeviceError


@pytest.mark.parametrize("replicas", [1, 2])
def test_mirrored_over_logical_cpus(replicas: int) -> None:
    strategy = distribution.mirrored_strategy(replicas)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == replicas


def test_without_gpus_it_is_one_cpu() -> None:
    assert distribution.mirrored_strategy(None).num_replicas_in_sync == 1


def test_more_replicas_than_tensorflow_started_with_are_refused() -> None:
    with pytest.raises(DeviceError, match="--cpu-replicas 5: TensorFlow is running already with 2 logical"):
        distribution.mirrored_strategy(5)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("batch_size", [3, 4])  # 3: two replicas get unequal parts
@pytest.mark.parametrize("count", [1, 8, 13])  # a last batch of 1 leaves a replica without any
def test_forward_keeps_the_order_and_every_example(replicas: int, batch_size: int, count: int) -> None:
    strategy = distribution.mirrored_strategy(replicas)
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    inputs = np.arange(count, dtype=np.float32)[:, None]
    seen: list[int] = []
    outputs = Forward(model, strategy)(
        [inputs[start : start + batch_size] for start in range(0, count, batch_size)], seen.append
    )
    np.testing.assert_array_equal(outputs, 2 * inputs)
    assert sum(seen) == count
