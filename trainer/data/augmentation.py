"""Random changes of a training image that depend on its bytes, the view's number and the seed alone."""

from __future__ import annotations

import functools
import hashlib

import keras
import numpy as np
import tensorflow as tf

DESCRIPTION = {"flip": "horizontal", "rotation": 0.05, "zoom": 0.15, "contrast": 0.2}
"""What is done: part of what decides the content of the feature cache."""


@functools.cache
def _layers() -> tuple[keras.layers.Layer, ...]:
    return (
        keras.layers.RandomFlip(DESCRIPTION["flip"]),
        keras.layers.RandomRotation(DESCRIPTION["rotation"], fill_mode="nearest"),
        keras.layers.RandomZoom(DESCRIPTION["zoom"], fill_mode="nearest"),
        keras.layers.RandomContrast(DESCRIPTION["contrast"], value_range=(0, 255)),
    )


def view_seed(seed: int, digest: str, view: int) -> np.ndarray:
    """Return the seed of one view of one image, int32 (2,).

    Args:
      digest: SHA-256 (hex) of the image's bytes.
      view: 1 for the first copy; 0 is the image itself, which is not changed.
    """
    return np.frombuffer(hashlib.sha256(f"{seed}/{digest}/{view}".encode()).digest()[:8], np.int32)


class _FromTensor(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras has no types
    """Keras' layers draw from a variable; this draws from a tensor, so that images can go in any order."""

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed = seed
        self._drawn = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)


def augment(levels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flip, turn, zoom and change the contrast of one image.

    Args:
      levels: float32 (H, W, 3), from 0 to 255.
      seed: int32 (2,); the same seed changes the same image in the same way.
    Returns:
      float32 (H, W, 3), from 0 to 255.
    """
    draws = _FromTensor(seed)
    images = levels[tf.newaxis]
    for layer in _layers():
        change = layer.get_random_transformation(images, training=True, seed=draws)
        images = layer.transform_images(images, change, training=True)
    return tf.ensure_shape(images[0], levels.shape)
