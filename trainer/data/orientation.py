"""Read the EXIF orientation of an image file in the graph, and turn the decoded levels upright.

TensorFlow has no operation for it. `serving_client.formats.orientation` states the definition and does the
same in Python; tests/test_orientation.py compares the two on mutated files.
"""

from __future__ import annotations

import tensorflow as tf

from trainer.data.chunks import integers, part, size, unsigned, walk
from trainer.data.webp import is_webp, webp_end

_EXIF_PREFIX = b"Exif\0\0"
_EXIF = int.from_bytes(b"EXIF", "little")
_PNG_EXIF = int.from_bytes(b"eXIf", "big")
_PNG_END = int.from_bytes(b"IEND", "big")
_ORIENTATION_TAG = 0x0112
_SHORT = 3

# What the walk does at each marker of a JPEG.
_STOP, _FILL_BYTE, _NO_PAYLOAD, _SEGMENT = range(4)
_MARKERS = [_SEGMENT] * 256
_MARKERS[0x00] = _MARKERS[0xD8] = _MARKERS[0xD9] = _MARKERS[0xDA] = _STOP
_MARKERS[0x01] = _NO_PAYLOAD
_MARKERS[0xD0:0xD8] = [_NO_PAYLOAD] * 8
_MARKERS[0xFF] = _FILL_BYTE
for _frame_header in {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}:
    _MARKERS[_frame_header] = _STOP


def read_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation of an image file.

    Args:
      encoded: string scalar, any bytes.
    Returns:
      int64 scalar from 1 to 8; 1 (upright) if the bytes hold none.
    """
    exif = tf.case(
        [
            (tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff", lambda: _jpeg_exif(encoded)),
            (tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n", lambda: _png_exif(encoded)),
            (is_webp(encoded), lambda: _webp_exif(encoded)),
        ],
        default=lambda: tf.constant(b""),
    )
    upright = tf.constant(1, tf.int64)
    return tf.cond(tf.strings.length(exif) > 0, lambda: _exif_orientation(exif), lambda: upright)


def turn_upright(levels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn a decoded image so that it is upright.

    Args:
      levels: (H, W, C).
      orientation: int64 scalar from 1 to 8.
    Returns:
      (H, W, C), or (W, H, C) for an orientation from 5 to 8.
    """

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(levels, (1, 0, 2)), lambda: levels)
        is_mirrored = [
            tf.reduce_any(orientation == tf.constant([3, 4, 7, 8], tf.int64)),  # top and bottom
            tf.reduce_any(orientation == tf.constant([2, 3, 6, 7], tf.int64)),  # left and right
            tf.constant(False),
        ]
        return tf.raw_ops.Reverse(tensor=turned, dims=tf.stack(is_mirrored))

    upright = tf.cond(orientation > 1, turn, lambda: levels)
    return tf.ensure_shape(upright, (None, None, levels.shape[2]))


def _exif_orientation(exif: tf.Tensor) -> tf.Tensor:
    """Return the orientation of an Exif block that is not empty, int64 scalar."""
    has_prefix = tf.strings.substr(exif, 0, 6) == _EXIF_PREFIX
    tiff = tf.strings.substr(exif, tf.where(has_prefix, 6, 0), tf.strings.length(exif))
    byte_order = tf.strings.substr(tiff, 0, 4)
    return tf.case(
        [
            (byte_order == b"II*\0", lambda: _tiff_orientation(tiff, little_endian=True)),
            (byte_order == b"MM\0*", lambda: _tiff_orientation(tiff, little_endian=False)),
        ],
        default=lambda: tf.constant(1, tf.int64),
    )


def _tiff_orientation(tiff: tf.Tensor, *, little_endian: bool) -> tf.Tensor:
    start = unsigned(integers(tiff, 4, 1, tf.int32, little_endian=little_endian)[0])
    count = integers(tiff, start, 1, tf.uint16, little_endian=little_endian)[0]
    complete = tf.clip_by_value((size(tiff) - start - 2) // 12, 0, count)
    directory = part(tiff, start + 2, start + 2 + 12 * complete)
    numbers = tf.io.decode_raw(directory, tf.uint16, little_endian=little_endian)
    # tag, type, number of values (two halves), value, and what follows a SHORT
    entries = tf.reshape(tf.cast(numbers, tf.int64), (-1, 6))
    first = tf.boolean_mask(entries, entries[:, 0] == _ORIENTATION_TAG)[:1]
    one_value = [1, 0] if little_endian else [0, 1]
    is_short = tf.reduce_all(first[:, 1:4] == tf.constant([_SHORT, *one_value], tf.int64), axis=1)
    value = first[:, 4]
    is_valid = is_short & (value >= 1) & (value <= 8)
    # Both are empty if there is no such entry.
    return tf.reduce_max(tf.concat([tf.where(is_valid, value, 1), [1]], 0))


def _jpeg_exif(encoded: tf.Tensor) -> tf.Tensor:
    """Return the Exif block of the first APP1 segment that has one; b"" if none has."""
    end = size(encoded)
    markers = tf.constant(_MARKERS, tf.int64)

    def read(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = tf.strings.substr(encoded, tf.minimum(position, end), 10)
        numbers = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=4), tf.int64)
        length = numbers[2] * 256 + numbers[3]
        kind = tf.where(numbers[0] == 0xFF, tf.gather(markers, numbers[1]), _STOP)
        # The kind of a marker without a payload is also the number of its bytes.
        advance = tf.where(kind == _SEGMENT, tf.where(length >= 2, 2 + length, 0), kind)
        has_exif = tf.strings.regex_full_match(head, r"\C{4}Exif\x00\x00")
        return advance, has_exif & (kind == _SEGMENT) & (numbers[1] == 0xE1)

    position, found = walk(2, read)

    def payload() -> tf.Tensor:
        length = integers(encoded, position + 2, 1, tf.uint16, little_endian=False)[0]
        return part(encoded, position + 10, position + 2 + length)

    return tf.cond(found, payload, lambda: tf.constant(b""))


def _png_exif(encoded: tf.Tensor) -> tf.Tensor:
    """Return the content of the first chunk eXIf; b"" if there is none."""
    end = size(encoded)

    def read(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = integers(encoded, position, 2, tf.int32, little_endian=False)
        is_chunk = (position + 8 <= end) & (head[1] != _PNG_END)
        return tf.where(is_chunk, 12 + unsigned(head[0]), 0), is_chunk & (head[1] == _PNG_EXIF)

    position, found = walk(8, read)

    def payload() -> tf.Tensor:
        length = unsigned(integers(encoded, position, 1, tf.int32, little_endian=False)[0])
        return part(encoded, position + 8, position + 8 + length)

    return tf.cond(found, payload, lambda: tf.constant(b""))


def _webp_exif(encoded: tf.Tensor) -> tf.Tensor:
    """Return the content of the first chunk EXIF; b"" if there is none."""
    end = webp_end(encoded)

    def read(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = integers(encoded, position, 2, tf.int32, little_endian=True)
        length = unsigned(head[1])
        is_chunk = position + 8 <= end
        return tf.where(is_chunk, 8 + length + length % 2, 0), is_chunk & (head[0] == _EXIF)

    position, found = walk(12, read)

    def payload() -> tf.Tensor:
        length = unsigned(integers(encoded, position + 4, 1, tf.int32, little_endian=True)[0])
        return part(encoded, position + 8, tf.minimum(position + 8 + length, end))

    return tf.cond(found, payload, lambda: tf.constant(b""))
