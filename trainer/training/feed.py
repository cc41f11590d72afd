"""The global batches of an epoch: each image once, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from trainer.runtime.stopping import Stop
from trainer.training.devices import Devices, Rows

Batches: TypeAlias = "Iterable[tuple[Rows, Rows]]"
PerReplicaBatch: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor]"
"""Inputs, labels and whether the process is asked to stop: a tensor each, or a PerReplica of tensors."""


class Examples(Protocol):
    """A split whose examples can be read in any order, any number of times.

    Example j is view j // count of image j % count, where count is the number of labels.
    """

    @property
    def labels(self) -> np.ndarray:
        """int32 (count,)."""

    @property
    def views(self) -> int:
        """Number of examples of each image."""

    def batches(self, order: np.ndarray, batch_size: int) -> Batches:
        """Return batches (inputs, labels) of the examples in that order; the last may be smaller."""


class Feed:
    """The global batches of a split, of which this worker reads its shard.

    The order of the examples in epoch e depends on (seed, e) alone. So one replica and many, on one worker or
    several, take the same steps, and a run that was interrupted takes the same as one that was not.
    """

    def __init__(
        self, examples: Examples, input_shape: tuple[int, ...], batch_size: int, seed: int, devices: Devices
    ) -> None:
        """Set up the feed.

        Args:
          input_shape: of one example.
          batch_size: examples per replica and step.
        """
        self._examples = examples
        self._input_shape = input_shape
        self._batch_size = batch_size
        self._seed = seed
        self._devices = devices

    def steps(self, epoch: int, first: int, stop: Stop) -> Iterator[PerReplicaBatch]:
        """Yield the steps of an epoch from step `first` on."""
        order = self._order(epoch)
        global_batch_size = self._batch_size * self._devices.replicas
        starts = range(first * global_batch_size, len(order), global_batch_size)
        shards = [self._devices.worker_shard(order[start : start + global_batch_size]) for start in starts]
        local_batch_size = self._batch_size * self._devices.local_replicas
        batches = iter(self._examples.batches(np.concatenate([order[:0], *shards]), local_batch_size))
        empty: tuple[Rows, Rows] | None = None
        split = self._devices.split_across_replicas
        for shard in shards:
            # A last batch may have no rows for this worker, and the others still wait for its step.
            inputs, labels = next(batches) if len(shard) else empty or self._empty_batch()
            empty = (inputs[:0], labels[:0])
            stopping = np.full(self._devices.local_replicas, stop.requested, np.float32)
            yield split(inputs), split(labels), split(stopping)

    def _empty_batch(self) -> tuple[Rows, Rows]:
        return np.zeros((0, *self._input_shape), np.float32), np.zeros(0, np.int32)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the epoch's examples: each image once, as itself or as one of its copies."""
        rng = np.random.default_rng((self._seed, epoch))
        count, views = len(self._examples.labels), self._examples.views
        order = rng.permutation(count)
        if views > 1:
            order += count * rng.integers(views, size=count)
        return order
