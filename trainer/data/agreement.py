"""Establish that the client and the graph decode an image to the same pixels, when it is first read.

The scan reads headers only. What just decoding reveals, such as damaged coded data, is found here: an image
is valid if the client decodes it, TensorFlow decodes it, and no level differs. So after the training no
export check, and no client, can refuse an image that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving_client.errors import ImageError
from serving_client.formats import decoding
from trainer.data.decoding import decode
from trainer.data.image_set import ImageSet
from trainer.data.invalid_images import InvalidImage
from trainer.data.reading import lossless_copy


def require_agreement(encoded: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """Return the levels of an image, if the client decodes the same.

    Pillow decodes without Python's lock, so the images of a dataset are compared in parallel.

    Args:
      encoded: string scalar, the file's bytes.
      levels: uint8 (H, W, 3), as `decode` has decoded them.
    Raises:
      tf.errors.InvalidArgumentError: the client refuses the image, or a level differs (`find_undecodable`
        names it).
    """
    agrees = tf.numpy_function(_client_agrees, [encoded, levels], tf.bool, stateful=False)
    with tf.control_dependencies([tf.debugging.Assert(agrees, ["the client decodes an image otherwise"])]):
        return tf.identity(levels)


def _client_agrees(encoded: bytes, levels: np.ndarray) -> bool:
    try:
        return np.array_equal(_decode_as_client(encoded), levels)
    except ImageError:
        return False


def _decode_as_client(encoded: bytes) -> np.ndarray:
    """Return uint8 (H, W, 3)."""
    return np.asarray(decoding.decode(encoded))


def find_undecodable(image_sets: Iterable[ImageSet]) -> list[InvalidImage]:
    """Decode every image by itself, and return with the reason those that client and graph do not agree on.

    Call it after a batch has failed, so that valid data is not decoded twice.
    """
    paths = [path for images in image_sets for path in images.paths]
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(_why_undecodable, paths)
        return [InvalidImage(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]


def _why_undecodable(path: Path) -> str | None:
    try:
        encoded = lossless_copy(path.read_bytes())
        as_client = _decode_as_client(encoded)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ImageError as error:
        return str(error)
    try:
        levels = decode(tf.constant(encoded)).numpy()
    except tf.errors.OpError as error:
        # "{{function_node …}} reason [Op:DecodeJpeg]": only the reason helps a person.
        message: str = error.message
        return message.split("}} ", 1)[-1].split(" [Op:", 1)[0].rstrip(".").strip()
    if not np.array_equal(as_client, levels):
        return "Pillow and TensorFlow decode it to different pixels: save it as PNG"
    return None
