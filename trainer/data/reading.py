"""Read image files as bytes that TensorFlow decodes: HEIC and AVIF become a lossless copy.

TensorFlow decodes neither. The client's own decoder makes the copy, so training sees the pixels that a client
sends.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from serving_client import preprocessing
from serving_client.errors import ImageError
from serving_client.formats.heif import heif_format


def lossless_copy(data: bytes) -> bytes:
    """Return an image file that TensorFlow decodes: an upright PNG of HEIC or AVIF, any other file unchanged.

    Raises:
      ImageError: the HEIC or AVIF image cannot be decoded, or the extra `heif` is not installed.
    """
    return preprocessing.to_png(preprocessing.decode(data)) if heif_format(data) else data


def read_bytes(path: Path) -> bytes:
    """Read an image file, or the lossless copy of it; the file's own bytes if that fails.

    Those cannot be decoded, and `find_undecodable` gives the reason.

    Raises:
      OSError: the file cannot be read.
    """
    return _copy_if_possible(path.read_bytes())


def read_file(path: tf.Tensor) -> tf.Tensor:
    """Read an image file in a dataset, as `read_bytes` does: string scalar to string scalar."""
    data = tf.io.read_file(path)
    # Python's lock would slow the other formats down.
    is_heif = tf.strings.regex_full_match(tf.strings.substr(data, 0, 8), r"\C{4}ftyp")
    copied = tf.cond(is_heif, lambda: tf.numpy_function(_copy_if_possible, [data], tf.string), lambda: data)
    return tf.ensure_shape(copied, ())


def _copy_if_possible(data: bytes) -> bytes:
    try:
        return lossless_copy(data)
    except ImageError:
        return data
