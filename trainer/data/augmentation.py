"""Random augmentation that depends only on the image's bytes, the view number and the seed."""

from __future__ import annotations

import functools
import hashlib

import keras
import numpy as np
import tensorflow as tf

AUGMENTATION = {"flip": "horizontal", "rotation": 0.05, "zoom": 0.15, "contrast": 0.2}
"""The augmentation layers' settings. They are part of the feature cache's key."""


@functools.cache
def _layers() -> tuple[keras.layers.Layer, ...]:
    return (
        keras.layers.RandomFlip(AUGMENTATION["flip"]),
        keras.layers.RandomRotation(AUGMENTATION["rotation"], fill_mode="nearest"),
        keras.layers.RandomZoom(AUGMENTATION["zoom"], fill_mode="nearest"),
        keras.layers.RandomContrast(AUGMENTATION["contrast"], value_range=(0, 255)),
    )


def view_seed(seed: int, digest: str, view: int) -> np.ndarray:
    """Return the seed of one view of one image, int32 (2,).

    Args:
      digest: SHA-256 (hex) of the image's bytes.
      view: 1 for the first augmented copy; 0 is the unchanged image.
    """
    return np.frombuffer(hashlib.sha256(f"{seed}/{digest}/{view}".encode()).digest()[:8], np.int32)


class _SeedFromTensor(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras has no types
    """Draw from a tensor. Keras' generator draws from a variable, so results depend on the images' order."""

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed = seed
        self._draws = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self._draws += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._draws)


def augment(levels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flip, rotate, zoom and change the contrast of one image, all at random.

    Args:
      levels: float32 (H, W, 3), from 0 to 255.
      seed: int32 (2,), from `view_seed`.
    Returns:
      float32 (H, W, 3), from 0 to 255.
    """
    generator = _SeedFromTensor(seed)
    images = levels[tf.newaxis]
    for layer in _layers():
        transformation = layer.get_random_transformation(images, training=True, seed=generator)
        images = layer.transform_images(images, transformation, training=True)
    return tf.ensure_shape(images[0], levels.shape)
