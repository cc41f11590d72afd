"""Read the EXIF orientation of an image file, and turn the decoded image upright.

`trainer.data.orientation` reads it in the same way with TensorFlow; tests/test_orientation.py compares the
two on mutated files. Pillow's own `exif_transpose` would not do, because it also reads XMP and text chunks.

The definition, for any bytes:

- The Exif block is, in a JPEG, the payload of the first APP1 segment that begins with "Exif\\0\\0", among the
  segments before the frame header (SOF); in a PNG, the first chunk eXIf; in a WebP, the first chunk EXIF. At
  most MAX_STEPS segments, fill bytes or chunks are walked. Other formats have none.
- The orientation is the first entry with tag 0x0112 of the block's first directory. It counts if it is one
  SHORT from 1 to 8. Without a block, a directory, or such an entry, the orientation is 1: upright.

Source: Exif 3.0 (CIPA DC-008), 4.5 and 4.6; PNG, third edition, 11.3.4.2; WebP container specification.
"""

from __future__ import annotations

import struct

from PIL import Image

from serving_client.formats.webp_frame import MAX_STEPS, is_webp, webp_end

EXIF_PREFIX = b"Exif\0\0"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112
_SHORT = 3

# No Exif block comes behind a frame header, and no further segment behind the other markers.
_JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_STOPS = {*_JPEG_FRAME_HEADERS, 0x00, 0xD8, 0xD9, 0xDA}

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(data: bytes) -> int:
    """Return the EXIF orientation of an image file, from 1 to 8; 1 for bytes of any other kind."""
    if data.startswith(b"\xff\xd8\xff"):
        return orientation_in_exif(_jpeg_exif(data))
    if data.startswith(_PNG_SIGNATURE):
        return orientation_in_exif(_png_exif(data))
    if is_webp(data):
        return orientation_in_exif(_webp_exif(data))
    return 1


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a decoded image so that it is upright.

    Args:
      orientation: from 1 to 8. 1 returns the image itself.
    """
    return image.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else image


def orientation_in_exif(exif: bytes) -> int:
    """Return the orientation of an Exif block, with or without its prefix "Exif\\0\\0"; 1 if it has none."""
    tiff = exif.removeprefix(EXIF_PREFIX)
    if tiff.startswith(b"II*\0"):
        order = "<"
    elif tiff.startswith(b"MM\0*"):
        order = ">"
    else:
        return 1
    if len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    complete = min(count, (len(tiff) - start - 2) // 12)
    entries = struct.iter_unpack(f"{order}HHIHH", tiff[start + 2 : start + 2 + 12 * complete])
    for tag, kind, values, value, _ in entries:
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and values == 1 and 1 <= value <= 8 else 1
    return 1


def _jpeg_exif(data: bytes) -> bytes:
    position = 2
    for _ in range(MAX_STEPS):
        if position + 4 > len(data) or data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these have no payload
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _JPEG_STOPS or length < 2:
            break
        end = position + 2 + length
        if marker == 0xE1 and data.startswith(EXIF_PREFIX, position + 4, end):
            return data[position + 10 : end]
        position = end
    return b""


def _png_exif(data: bytes) -> bytes:
    position = len(_PNG_SIGNATURE)
    for _ in range(MAX_STEPS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            return data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            break
        position += 12 + length
    return b""


def _webp_exif(data: bytes) -> bytes:
    end = webp_end(data)
    position = 12
    for _ in range(MAX_STEPS):
        if position + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8 : min(position + 8 + length, end)]
        position += 8 + length + length % 2
    return b""
