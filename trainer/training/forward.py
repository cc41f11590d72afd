"""A forward pass over the replicas of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer.training.devices import Devices, Rows
from trainer.training.feed import Examples


class Forward:
    """A model in inference mode on this worker's replicas, traced once however often it is called.

    Nothing is exchanged with other workers.
    """

    def __init__(self, model: keras.Model, devices: Devices, *, xla: bool = False) -> None:
        """Prepare the function.

        Args:
          xla: compile with XLA.
        """
        self.model = model
        self._devices = devices
        (input_tensor,) = model.inputs
        spec = tf.TensorSpec(input_tensor.shape, input_tensor.dtype)

        # One trace for every batch size: tracing a large network takes seconds.
        @tf.function(input_signature=[spec], jit_compile=xla, autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def on_replica(inputs: tf.Tensor) -> list[tf.Tensor]:
            return [tf.cast(output, tf.float32) for output in tf.nest.flatten(model(inputs, training=False))]

        self._on_replicas = tf.function(
            lambda inputs: devices.strategy.run(
                lambda part: on_replica(tf.cast(part, spec.dtype)), args=(inputs,)
            ),
            reduce_retracing=True,
            autograph=False,
        )

    def stream(self, batches: Iterable[Rows]) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield each batch's outputs, float32, one array for each output of the model."""
        for inputs in batches:
            outputs = self._on_replicas(self._devices.split_across_replicas(inputs))
            yield tuple(
                np.concatenate(
                    [part.numpy() for part in self._devices.strategy.experimental_local_results(output)]
                )
                for output in outputs
            )


def compute_logits(
    forward: Forward, examples: Examples, batch_size: int, devices: Devices
) -> list[np.ndarray]:
    """Return the logits of each example once, in the examples' own order.

    Each worker computes its shard, and receives those of the others.

    Returns:
      For each of the model's outputs, float32 (count, K or 1).
    """
    count = len(examples.labels)
    shard = devices.worker_shard(np.arange(count))
    logits = [np.zeros((count, output.shape[-1]), np.float32) for output in forward.model.outputs]
    done = 0
    batches = examples.batches(shard, batch_size) if len(shard) else ()
    for outputs in forward.stream(inputs for inputs, _ in batches):
        rows = shard[done : done + len(outputs[0])]
        done += len(rows)
        for whole, part in zip(logits, outputs, strict=True):
            whole[rows] = part
    return [devices.sum(whole).astype(np.float32) for whole in logits]
