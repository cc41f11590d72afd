"""Read the header of a BMP file.

Source: BITMAPFILEHEADER, BITMAPINFOHEADER and BITMAPV5HEADER of the Windows GDI reference.
"""

from __future__ import annotations

import struct

from serving_client.formats.contents import Contents, damaged, truncated, unsupported

_HEADER_SIZES = (40, 52, 56, 64, 108, 124)
_PLAIN, _BITFIELDS = 0, 3
_BGRX_MASKS = (0x00FF0000, 0x0000FF00, 0x000000FF)
_GREYS = b"".join(bytes([level, level, level, 0]) for level in range(256))


def read(data: bytes) -> Contents:
    """Read the header of a BMP with 24 or 32 bits, or 8 bits of grey.

    TensorFlow takes the levels as they lie in the file. It knows no palette, mask or compression, and it
    wants a file of exactly the size that the header implies.

    Raises:
      ImageError: it is damaged or truncated, or of another kind.
    """
    bits, top, rows = layout(data)
    height_px, width_px = abs(rows), struct.unpack_from("<i", data, 18)[0]
    if width_px < 0:
        raise damaged("BMP", "a negative width")
    contents = Contents("BMP", width_px, height_px, (slice(0, len(data)),))
    size = top + row_bytes(width_px, bits) * height_px
    if size > len(data):
        raise truncated("BMP")
    if size < len(data):
        raise damaged("BMP", f"{len(data):,} bytes instead of {size:,}")
    return contents


def row_bytes(width_px: int, bits: int) -> int:
    """Return the bytes of a row, which is padded to a multiple of four."""
    return (width_px * bits // 8 + 3) // 4 * 4


def layout(data: bytes) -> tuple[int, int, int]:
    """Return how the pixels lie in the file.

    Returns:
      Bits per pixel: 8, 24 or 32; where the first row begins; the number of rows, negative if the first row
      in the file is the top one.
    Raises:
      ImageError: it is of another kind.
    """
    if len(data) < 54:
        raise truncated("BMP")
    start, header_size = struct.unpack_from("<iI", data, 10)
    if header_size not in _HEADER_SIZES:
        raise unsupported(f"a BMP with a header of {header_size:,} bytes")
    rows, _, bits, compression = struct.unpack_from("<iHHI", data, 22)
    if bits not in (8, 24, 32):
        raise unsupported(f"a BMP with {bits} bits instead of 24 or 32, or 8 bits of grey")
    if compression != _PLAIN and not (compression == _BITFIELDS and bits == 32):
        raise unsupported("a compressed BMP")
    behind_header = 14 + header_size
    if compression == _BITFIELDS:
        if data[54:66] != struct.pack("<3I", *_BGRX_MASKS):
            raise unsupported("a BMP with an unusual order of its levels")
        behind_header = max(behind_header, 66)
    if bits == 8:
        if data[behind_header : behind_header + 1024] != _GREYS:
            raise unsupported("a BMP with a palette other than 256 greys")
        behind_header += 1024
    if start < behind_header:
        raise damaged("BMP", "pixels that begin inside the header")
    return bits, start, rows
