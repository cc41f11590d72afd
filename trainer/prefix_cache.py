"""Run the frozen part of the network once per image; the head is trained on what is kept here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from trainer import progress
from trainer.distribution import Forward
from trainer.pipeline import ImageExamples


@dataclasses.dataclass(frozen=True)
class FeatureExamples:
    """The pooled features of one split, in memory.

    Attributes:
      features: float32 (count, F).
      labels: int32 (count,).
    """

    features: np.ndarray
    labels: np.ndarray

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches (float32 (N, F), int32 (N,)) in the given order; the last may be smaller."""
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield self.features[rows], self.labels[rows]


def pooled_features(
    features: Forward,
    examples: ImageExamples,
    *,
    batch_size: int,
    description: str,
) -> FeatureExamples:
    """Run the frozen backbone over each image once, spread over the strategy's replicas.

    Args:
      features: the frozen network over the replicas, images → (N, F).
      batch_size: images per step, over all replicas.
      description: what the progress bar calls the split.
    """
    in_order = np.arange(len(examples.images))
    images = (images for images, _ in examples.batches(in_order, batch_size))
    with progress.bar(f"features of {description}", len(in_order)) as advance:
        return FeatureExamples(features(images, advance), examples.labels)
