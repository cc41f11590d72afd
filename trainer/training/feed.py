"""What one epoch feeds to the replicas: each image once, in an order that anyone can work out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from trainer.runtime.stopping import Stop
from trainer.training.distribution import Devices, Rows

Batches: TypeAlias = "Iterable[tuple[Rows, Rows]]"
PerReplicaBatch: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor]"
"""Inputs, labels, and whether the process is to stop: a tensor each, or one for each replica."""


class Examples(Protocol):
    """A split that can be read in any order, as often as one likes.

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


class Feed:
    """Global batches of a split, of which this worker reads its part.

    The order of the examples in epoch e depends on (seed, e) alone: one replica and many, on one worker or
    several, a run that was interrupted and one that was not, take the same steps.
    """

    def __init__(
        self, examples: Examples, input_shape: tuple[int, ...], batch_size: int, seed: int, devices: Devices
    ) -> None:
        """Set up.

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
        """Yield what is left of an epoch from its step `first` on."""
        order = self._order(epoch)
        global_batch_size = self._batch_size * self._devices.replicas
        starts = range(first * global_batch_size, len(order), global_batch_size)
        mine = [self._devices.share(order[start : start + global_batch_size]) for start in starts]
        local_batch_size = self._batch_size * self._devices.local_replicas
        batches = iter(self._examples.batches(np.concatenate([order[:0], *mine]), local_batch_size))
        none: tuple[Rows, Rows] | None = None
        deal = self._devices.deal
        for rows in mine:
            # Of a last batch there may be nothing left for this worker; the others still wait for it.
            inputs, labels = next(batches) if len(rows) else none or self._nothing()
            none = (inputs[:0], labels[:0])
            stopping = np.full(self._devices.local_replicas, stop.requested, np.float32)
            yield deal(inputs), deal(labels), deal(stopping)

    def _nothing(self) -> tuple[Rows, Rows]:
        return np.zeros((0, *self._input_shape), np.float32), np.zeros(0, np.int32)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the epoch's examples: each image once, as itself or as one of its copies."""
        rng = np.random.default_rng((self._seed, epoch))
        count, views = len(self._examples.labels), self._examples.views
        order = rng.permutation(count)
        if views > 1:
            order += count * rng.integers(views, size=count)
        return order
