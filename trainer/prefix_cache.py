"""Run the frozen part of the network once per image; the head is trained on what is kept here."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

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

    def batches(self, order: np.ndarray, batch_size: int) -> tf.data.Dataset:
        """Return batches (float32 (N, F), int32 (N,)) in the given order; the last may be smaller."""
        return tf.data.Dataset.from_tensor_slices((self.features[order], self.labels[order])).batch(
            batch_size
        )


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
    batches = examples.batches(in_order, batch_size)
    images = batches.map(lambda images, labels: images)
    with progress.bar(f"features of {description}", len(in_order)) as advance:
        return FeatureExamples(features(images, advance), examples.labels)
