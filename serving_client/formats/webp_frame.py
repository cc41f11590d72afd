"""Reduce a WebP file to the colours of its first frame.

`trainer.data.webp` does the same with TensorFlow, which decodes neither animations nor alpha as Pillow does.
So both decode the same bytes.
Source: the WebP container specification.
"""

from __future__ import annotations

import struct

MAX_STEPS = 4096
"""Chunks that are walked at most."""

# A frame's own chunks follow these bytes of a chunk ANMF, header included.
_FRAME_HEADER = 24


def is_webp(data: bytes) -> bool:
    """Return whether the bytes begin as a WebP file does."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def webp_end(data: bytes) -> int:
    """Return where a WebP file ends by its own header, or where its bytes do."""
    (riff_size,) = struct.unpack_from("<I", data, 4)
    return min(len(data), 8 + int(riff_size))


def first_frame(data: bytes) -> bytes:
    """Return a WebP file of nothing but the first frame's colours.

    Args:
      data: a WebP file.
    Returns:
      The same bytes if there is no frame.
    """
    end = webp_end(data)
    position = 12
    for _ in range(MAX_STEPS):
        if position + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind in (b"VP8 ", b"VP8L"):
            chunk = data[position : min(position + 8 + length, end)]
            padded = chunk + bytes(len(chunk) % 2)
            return b"RIFF" + struct.pack("<I", 4 + len(padded)) + b"WEBP" + padded
        position += _FRAME_HEADER if kind == b"ANMF" else 8 + length + length % 2
    return data
