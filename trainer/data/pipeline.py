"""The input pipeline: read, decode, augment, batch and preprocess the images of a split."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data.agreement import require_agreement
from trainer.data.augmentation import augment, view_seed
from trainer.data.decoding import decode, resize, without_autotuning
from trainer.data.image_set import ImageSet
from trainer.data.orientation import read_orientation, turn_upright
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

    def batches(self, order: np.ndarray, batch_size: int, *, is_first_read: bool = False) -> tf.data.Dataset:
        """Read the examples in the given order.

        Args:
          order: example numbers, from 0 to views × images - 1.
          is_first_read: require that the client decodes the same pixels, which doubles the time of decoding.
        Returns:
          Batches of (float32 (N, H, W, 3) from `preprocess_input`, int32 (N,) labels). The last one may
          be smaller.
        """

        def read(
            path: tf.Tensor, label: tf.Tensor, view: tf.Tensor, seed: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return self._read(path, view, seed, is_first_read=is_first_read), label

        view, image = np.divmod(order, len(self.images))
        paths = np.array([str(path) for path in self.images.paths])[image]
        digests = self.images.digests
        seeds = np.array(
            [view_seed(self.seed, digests[i], v) for i, v in zip(image, view, strict=True)],
            np.int32,
        ).reshape(-1, 2)
        return (
            tf.data.Dataset.from_tensor_slices((paths, self.labels[image], view, seeds))
            .map(read, num_parallel_calls=os.cpu_count())
            .batch(batch_size)
            .map(lambda levels, labels: (preprocess_input(self.backbone, levels), labels))
            .prefetch(_PREFETCHED_BATCHES)
            .with_options(without_autotuning())
        )

    def _read(self, path: tf.Tensor, view: tf.Tensor, seed: tf.Tensor, *, is_first_read: bool) -> tf.Tensor:
        encoded = read_file(path)
        decoded = decode(encoded)
        if is_first_read:
            # Copies are of the same file.
            decoded = tf.cond(view > 0, lambda: decoded, lambda: require_agreement(encoded, decoded))
            decoded.set_shape((None, None, 3))
        upright = turn_upright(decoded, read_orientation(encoded))
        levels = resize(upright, self.image_size_px, self.resize_filter)
        if self.views > 1:
            levels = tf.cond(view > 0, lambda: augment(levels, seed), lambda: levels)
        return levels


def read_every_image(examples: Iterable[ImageExamples]) -> None:
    """Decode every image once, so that an undecodable one is found before the training starts.

    Raises:
      tf.errors.InvalidArgumentError: an image cannot be decoded, or the client decodes it otherwise;
        `find_undecodable` names it.
    """
    for split in examples:
        with progress.bar("reading images", len(split.images)) as advance:
            every = np.arange(len(split.images))
            for _, labels in split.batches(every, batch_size=32, is_first_read=True):
                advance(len(labels))
