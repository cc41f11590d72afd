"""Image files with an EXIF orientation, made byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
SHORT, LONG = 3, 4

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {"compress_level": 1},
    "WEBP": {"lossless": True, "quality": 0},
}
"""The formats whose orientation is in their Exif data, with what keeps their pixels as well as they can."""


def exif_block(
    orientation: int,
    *,
    order: str = "<",
    kind: int = SHORT,
    count: int = 1,
    before: int = 2,
    start: int = 8,
    thumbnail: int | None = None,
) -> bytes:
    """Return a TIFF structure with an orientation.

    Args:
      order: "<" or ">".
      before: number of other entries before it.
      start: where the directory begins.
      thumbnail: orientation of a second directory, as a thumbnail has it.
    """
    value = (
        struct.pack(f"{order}HH", orientation, 0) if kind == SHORT else struct.pack(f"{order}I", orientation)
    )
    entries = [struct.pack(f"{order}HHII", 0x0100 + index, LONG, 1, 6) for index in range(before)]
    entries.append(struct.pack(f"{order}HHI", ORIENTATION, kind, count) + value)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries)
    second = b"\0\0\0\0"
    if thumbnail is not None:
        second = struct.pack(f"{order}I", start + len(directory) + 4)
        second += struct.pack(f"{order}HHHIHHI", 1, ORIENTATION, SHORT, 1, thumbnail, 0, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head.ljust(start, b"\0") + directory + second


def segment(marker: int, payload: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, 2 + len(payload)) + payload


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def webp_chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def webp_file(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **{**FORMATS.get(format_name, {}), **options})
    return buffer.getvalue()


def stored_turned(image: Image.Image, format_name: str, orientation: int, **options: Any) -> bytes:
    """Return a file as a camera that was held in another way writes it: turned pixels, and the orientation.

    Undoing the turn gives the image again.
    """
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return encode(turned_back(image, orientation), format_name, exif=tags, **options)


def turned_back(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image as the sensor saw it: a viewer that follows the orientation shows `image`."""
    levels = np.asarray(image)
    # What EXIF says of the stored rows and columns, undone.
    levels = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation](levels)
    return Image.fromarray(np.ascontiguousarray(levels))
