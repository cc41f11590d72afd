"""Reduce a WebP file to what TensorFlow decodes: the colours of its first frame.

TensorFlow's decoder refuses an animation, and alpha where three channels are asked for. With the number of
channels left open it ends the process on some animations ("Check failed" in TensorFlow 2.21).

`serving_client.formats.webp_frame` does the same in Python; tests/test_orientation.py compares the two on
mutated files.
Source: the WebP container specification.
"""

from __future__ import annotations

import tensorflow as tf

from trainer.data.chunks import integers, part, size, unsigned, walk

_FRAME = int.from_bytes(b"ANMF", "little")
_BITSTREAMS = tuple(int.from_bytes(name, "little") for name in (b"VP8 ", b"VP8L"))
# A frame's own chunks follow these bytes of a chunk ANMF, header included.
_FRAME_HEADER = 24


def is_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Return whether the bytes begin as a WebP file does, bool scalar."""
    return tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 12), r"RIFF\C{4}WEBP")


def webp_end(encoded: tf.Tensor) -> tf.Tensor:
    """Return where the file ends by its own header, or where its bytes do, int64 scalar."""
    riff_size = unsigned(integers(encoded, 4, 1, tf.int32, little_endian=True)[0])
    return tf.minimum(size(encoded), 8 + riff_size)


def first_frame(encoded: tf.Tensor) -> tf.Tensor:
    """Return a WebP file of nothing but the first frame's colours.

    The file ends with them, because TensorFlow's decoder would read on behind lossless ones that end
    too early.

    Args:
      encoded: string scalar, a WebP file.
    Returns:
      string scalar; the same bytes if there is no frame.
    """
    end = webp_end(encoded)

    def read(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = integers(encoded, position, 2, tf.int32, little_endian=True)
        length = unsigned(head[1])
        is_chunk = position + 8 <= end
        to_next = tf.where(head[0] != _FRAME, 8 + length + length % 2, _FRAME_HEADER)
        is_bitstream = is_chunk & ((head[0] == _BITSTREAMS[0]) | (head[0] == _BITSTREAMS[1]))
        return tf.where(is_chunk, to_next, 0), is_bitstream

    start, found = walk(12, read)

    def only_colours() -> tf.Tensor:
        length = unsigned(integers(encoded, start + 4, 1, tf.int32, little_endian=True)[0])
        chunk = part(encoded, start, tf.minimum(start + 8 + length, end))
        padding = tf.gather(["", "\0"], size(chunk) % 2)
        return tf.strings.join(
            ["RIFF", _little_endian(4 + size(chunk) + size(chunk) % 2), "WEBP", chunk, padding]
        )

    return tf.cond(found, only_colours, lambda: encoded)


def _little_endian(number: tf.Tensor) -> tf.Tensor:
    """Return the four bytes of an int64 scalar, string scalar."""
    digits = tf.bitwise.right_shift(number, tf.constant([0, 8, 16, 24], tf.int64)) % 256
    return tf.strings.reduce_join(tf.gather([bytes([digit]) for digit in range(256)], digits))


def decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a WebP file, without alpha: uint8 (H, W, 3), RGB."""
    frame = first_frame(encoded)
    # A lossless bitstream may have alpha itself, and TensorFlow must be asked for that many channels.
    is_lossless = tf.strings.substr(frame, 12, 4) == b"VP8L"
    alpha_bit = integers(frame, 24, 1, tf.uint8, little_endian=True)[0] & 0x10
    return tf.cond(
        is_lossless & (alpha_bit > 0),
        lambda: tf.io.decode_image(frame, channels=4, expand_animations=False)[..., :3],
        lambda: tf.io.decode_image(frame, channels=3, expand_animations=False),
    )
