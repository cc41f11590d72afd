"""The input pipeline: read, decode, augment, batch and preprocess the images of a split."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data.augmentation import augment, view_seed
from trainer.data.decoding import decode_and_resize, without_autotuning
from trainer.data.image_set import ImageSet
from trainer.data.reading import read_file
from trainer.model import Backbone, preprocess_input
from trainer.runtime import progress

_PREFETCHED_BATCHES = 2
"""Batches that are decoded while the network computes."""


@dataclasses.dataclass(frozen=True)
class ImageExamples:
    """The images of one split as training examples; every pass reads and decodes the files again.

    Of n images, example j is view j // n of image j % n. View 0 is the image itself and the others are
    augmented copies.
    """

    images: ImageSet
    backbone: Backbone
    image_size_px: int
    views: int = 1
    seed: int = 0
    resize_filter: ResizeFilter = "bilinear"

    @property
    def labels(self) -> np.ndarray:
        """int32 (count,), one per image."""
        return np.array(self.images.labels, np.int32)

    def batches(self, order: np.ndarray, batch_size: int) -> tf.data.Dataset:
        """Read the examples in the given order.

        Args:
          order: example numbers, from 0 to views × images - 1.
        Returns:
          Batches of (float32 (N, H, W, 3) from `preprocess_input`, int32 (N,) labels). The last one may
          be smaller.
        """
        view, image = np.divmod(order, len(self.images))
        paths = np.array([str(path) for path in self.images.paths])[image]
        digests = self.images.digests
        seeds = np.array(
            [view_seed(self.seed, digests[i], v) for i, v in zip(image, view, strict=True)],
            np.int32,
        ).reshape(-1, 2)
        return (
            tf.data.Dataset.from_tensor_slices((paths, self.labels[image], view, seeds))
            .map(self._read, num_parallel_calls=os.cpu_count())
            .batch(batch_size)
            .map(lambda levels, labels: (preprocess_input(self.backbone, levels), labels))
            .prefetch(_PREFETCHED_BATCHES)
            .with_options(without_autotuning())
        )

    def _read(
        self, path: tf.Tensor, label: tf.Tensor, view: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        levels = decode_and_resize(read_file(path), self.image_size_px, self.resize_filter)
        if self.views > 1:
            levels = tf.cond(view > 0, lambda: augment(levels, seed), lambda: levels)
        return levels, label


def read_every_image(examples: Iterable[ImageExamples]) -> None:
    """Decode every image once, so that an undecodable one is found before the training starts.

    Raises:
      tf.errors.InvalidArgumentError: an image cannot be decoded; `find_undecodable` names it.
    """
    for split in examples:
        with progress.bar("reading images", len(split.images)) as advance:
            for _, labels in split.batches(np.arange(len(split.images)), batch_size=32):
                advance(len(labels))
