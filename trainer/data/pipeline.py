"""Image files → batches of preprocessed tensors, with the operations that also go into the export."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data.augmentation import augment, view_seed
from trainer.data.images import ImageSet
from trainer.data.invalid_images import InvalidImage
from trainer.model import Backbone, preprocess_input
from trainer.runtime import progress

_BATCHES_AHEAD = 2
"""Decoded while the network runs on the one before."""


def decode_and_resize(
    encoded: tf.Tensor, image_size_px: int, resize_filter: ResizeFilter = "bilinear"
) -> tf.Tensor:
    """Turn one encoded image into levels at the model's size.

    Pillow's decoder and its BILINEAR filter on each channel as float agree with these operations to
    0.01 level, with "nearest" they are the same; `serving_client.preprocessing` is that other half, and
    tests/test_parity.py holds the two together. TensorFlow's own defaults (a faster inverse DCT,
    resizing without antialiasing) are 4 and 133 levels off.

    Args:
      encoded: string scalar, the bytes of a JPEG, PNG, BMP or GIF (its first frame).
      resize_filter: "bilinear" is antialiased.
    Returns:
      float32 (image_size_px, image_size_px, 3), RGB, levels from 0 to 255, not rounded.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    # decode_jpeg has the choice of DCT that decode_image lacks, and refuses BMP and animations.
    levels = tf.cond(
        is_jpeg,
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    levels.set_shape((None, None, 3))
    smooth = resize_filter == "bilinear"
    resized = tf.image.resize(levels, (image_size_px, image_size_px), resize_filter, antialias=smooth)
    return tf.ensure_shape(tf.cast(resized, tf.float32), (image_size_px, image_size_px, 3))


def decode_or_flag(
    encoded: tf.Tensor, image_size_px: int, resize_filter: ResizeFilter = "bilinear"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Do as `decode_and_resize`, but have an image that cannot be decoded fail alone.

    A graph cannot catch an error; a dataset can leave out an element that raised one.

    Returns:
      Levels, black where there are none; bool scalar: whether the image could be decoded.
    """

    def decoded(one: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decode_and_resize(one, image_size_px, resize_filter), tf.constant(True)

    black = tf.zeros((image_size_px, image_size_px, 3)), tf.constant(False)
    first = (
        tf.data.Dataset.from_tensors(encoded)
        .map(decoded)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(black))
        .take(1)
        .with_options(_without_autotuning())
    )
    return first.get_single_element()  # type: ignore[no-any-return]  # TensorFlow has no types


@dataclasses.dataclass(frozen=True)
class ImageExamples:
    """The images of one split, read, decoded and preprocessed each time that they are asked for.

    Example j is view j // count of image j % count, count being the number of images: the first `count`
    examples are the images as they are, the others their augmented copies.
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

        Returns:
          Batches (float32 (N, H, W, 3) as `preprocess_input` leaves them, int32 (N,) labels); the
          last may be smaller.
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
            .prefetch(_BATCHES_AHEAD)
            .with_options(_without_autotuning())
        )

    def _read(
        self, path: tf.Tensor, label: tf.Tensor, view: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        levels = decode_and_resize(tf.io.read_file(path), self.image_size_px, self.resize_filter)
        if self.views > 1:
            levels = tf.cond(view > 0, lambda: augment(levels, seed), lambda: levels)
        return levels, label


def _without_autotuning() -> tf.data.Options:
    """Return options under which the end of a pass waits for nothing.

    The thread that tunes tf.data sleeps between its rounds, twice as long each time and a minute in the end,
    and now and then the end of a pass waits until it wakes: 10 s of 20, measured.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def read_every_image(examples: Iterable[ImageExamples]) -> None:
    """Decode every image, so that one that cannot be is found before the training and not after it."""
    for one in examples:
        with progress.bar("reading images", len(one.images)) as advance:
            for _, labels in one.batches(np.arange(len(one.images)), batch_size=32):
                advance(len(labels))


def find_undecodable(image_sets: Iterable[ImageSet]) -> list[InvalidImage]:
    """Decode every image by itself and return those that cannot be, with the decoder's reason.

    For after a batch has failed: good data is not decoded twice.
    """
    paths = [path for images in image_sets for path in images.paths]
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(_decode_failure, map(str, paths))
        return [InvalidImage(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]


def _decode_failure(path: str) -> str | None:
    try:
        decode_and_resize(tf.io.read_file(path), 8)
    except tf.errors.OpError as error:
        # "{{function_node …}} reason [Op:DecodeJpeg]": the reason is what a person can use.
        message: str = error.message
        return message.split("}} ", 1)[-1].split(" [Op:", 1)[0].rstrip(".").strip()
    return None
