"""Decode and resize images with TensorFlow, in the training pipeline and in the exported graph."""

from __future__ import annotations

import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data.orientation import read_orientation, turn_upright
from trainer.data.webp import decode_webp, is_webp

DECODING = 2
"""Number of the definition by which bytes become levels. Count it up when any file gets other levels: stored
features and interrupted runs then start anew. 1, in 0.1.0, ignored the EXIF orientation."""

_ANTIALIASED: dict[ResizeFilter, bool] = {"bilinear": True, "nearest": False}


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decode one image as it is stored.

    Args:
      encoded: string scalar, the bytes of a JPEG, PNG, BMP, GIF or WebP (its first frame).
    Returns:
      uint8 (H, W, 3), RGB.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    # Only decode_jpeg lets us choose the DCT, and only decode_image reads BMP and animated GIF.
    levels = tf.case(
        [
            (is_jpeg, lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")),
            (is_webp(encoded), lambda: decode_webp(encoded)),
        ],
        default=lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    levels.set_shape((None, None, 3))
    return levels


def decode_upright(encoded: tf.Tensor) -> tf.Tensor:
    """Decode one image as in `decode`, and turn it upright by its EXIF orientation: uint8 (H, W, 3), RGB."""
    return turn_upright(decode(encoded), read_orientation(encoded))


def resize(levels: tf.Tensor, image_size_px: int, resize_filter: ResizeFilter) -> tf.Tensor:
    """Resize RGB levels, (H, W, 3), to float32 (image_size_px, image_size_px, 3); not rounded.

    Raises:
      ValueError: the filter is unknown.
    """
    if resize_filter not in _ANTIALIASED:
        raise ValueError(
            f"resize_filter must be one of {', '.join(_ANTIALIASED)}. Received: {resize_filter!r}."
        )
    antialias = _ANTIALIASED[resize_filter]
    resized = tf.image.resize(levels, (image_size_px, image_size_px), resize_filter, antialias=antialias)
    return tf.ensure_shape(tf.cast(resized, tf.float32), (image_size_px, image_size_px, 3))


def decode_and_resize(
    encoded: tf.Tensor, image_size_px: int, resize_filter: ResizeFilter = "bilinear"
) -> tf.Tensor:
    """Decode one image, turn it upright and resize it to the model's input size.

    `serving_client.preprocessing` does the same in Pillow and numpy: its levels differ by at most 0.01
    with "bilinear" and by nothing with "nearest" (tests/test_parity.py). TensorFlow's defaults would
    differ by 4 levels (a faster inverse DCT) and by 133 (resizing without antialiasing).

    Args:
      encoded: string scalar, an image as in `decode`.
      resize_filter: "bilinear" is antialiased.
    Returns:
      float32 (image_size_px, image_size_px, 3), RGB, levels from 0 to 255, not rounded.
    """
    return resize(decode_upright(encoded), image_size_px, resize_filter)


def decode_or_flag(
    encoded: tf.Tensor, image_size_px: int, resize_filter: ResizeFilter = "bilinear"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode and resize one image, and return a flag instead of failing if it cannot be decoded.

    A graph cannot catch an error, but a dataset can drop an element that raises one. So this is a dataset
    of one image, with a black image behind it to take its place.

    Returns:
      Levels as from `decode_and_resize`, all 0 if the image cannot be decoded; bool scalar: whether it was
      decoded.
    """

    def decode_valid(encoded_image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decode_and_resize(encoded_image, image_size_px, resize_filter), tf.constant(True)

    black = tf.zeros((image_size_px, image_size_px, 3)), tf.constant(False)
    decoded_or_black = (
        tf.data.Dataset.from_tensors(encoded)
        .map(decode_valid)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(black))
        .take(1)
        .with_options(without_autotuning())
    )
    return decoded_or_black.get_single_element()  # type: ignore[no-any-return]  # TensorFlow has no types


def without_autotuning() -> tf.data.Options:
    """Return options that turn off tf.data's autotuning, which can delay the end of a pass.

    Its thread sleeps between rounds, twice as long each time and up to a minute. The end of a pass
    sometimes waits for it to wake: 10 s of 20, measured.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
