"""Read the chunks of a PNG file, up to its end chunk.

Source: Portable Network Graphics Specification (Third Edition), W3C, section 5 and 11.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from serving_client.formats.contents import MAX_BLOCKS, Contents, damaged, truncated, unsupported

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Allowed bits per level by colour type."""

_PALETTE = 3

_LEVELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Levels per pixel by colour type."""

_INTERLACE = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Left, top, and steps between columns and rows of each pass (Adam7)."""

_BUFFER = 2**20


def read(data: bytes) -> Contents:
    """Read the chunks of a PNG.

    The pixels need the header, the palette and the image data. Alpha is dropped, so transparency is metadata.

    Raises:
      ImageError: it is damaged or truncated.
    """
    chunks = _chunks(data)
    name, body = next(chunks)
    width_px, height_px, colour_type = _header(name, data[body])
    parts = [slice(0, body.stop + 4)]
    names = []
    for name, body in chunks:
        if name not in _CRITICAL:
            if name[:1].isupper():
                raise unsupported(f"a PNG with a chunk {name.decode('latin-1')!a}")
        elif name != b"PLTE" or colour_type == _PALETTE:
            parts.append(slice(body.start - 8, body.stop + 4))
        if name == b"PLTE":
            _check_palette(body)
        names.append(name)
    _check_order(names, needs_palette=colour_type == _PALETTE)
    return Contents("PNG", width_px, height_px, tuple(parts))


_CRITICAL = (b"PLTE", b"IDAT", b"IEND")


def _chunks(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Yield the name of each chunk and where its body lies, up to IEND; check the checksums."""
    view, position = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_BLOCKS):
        body = position + 8
        end = body + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            raise truncated("PNG")
        name = data[position + 4 : body]
        if not name.isalpha():
            raise damaged("PNG", "a chunk without a name")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise damaged("PNG", f"a wrong checksum of its chunk {name.decode('latin-1')!a}")
        yield name, slice(body, end)
        if name == b"IEND":
            return
        position = end + 4
    raise damaged("PNG", f"more than {MAX_BLOCKS:,} chunks")


def _header(name: bytes, body: bytes) -> tuple[int, int, int]:
    """Return width, height and colour type."""
    if name != b"IHDR" or len(body) != 13:
        raise damaged("PNG", "no header at its start")
    depth, colour_type, compression, filtering, interlace = body[8:]
    if depth not in _DEPTHS.get(colour_type, ()) or compression or filtering or interlace > 1:
        raise damaged("PNG", "a header with impossible values")
    return int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"), colour_type


def check_image_data(data: bytes, contents: Contents) -> None:
    """Decompress the image data, and check that it has exactly the length that the header implies.

    Pillow leaves rows black when there is too little, and libpng refuses the file. This takes up to half as
    long as decoding the file, and 1 MiB of memory.

    Args:
      contents: of this file, from `read`.
    Raises:
      ImageError: the image data is damaged, incomplete or too long.
    """
    depth, colour_type, _, _, interlace = data[24:29]
    bits = depth * _LEVELS[colour_type]
    expected = sum(
        height * (1 + -(-width * bits // 8))
        for width, height in _passes(contents.width_px, contents.height_px, bool(interlace))
    )
    inflate, received = zlib.decompressobj(), 0
    view = memoryview(data)
    try:
        for part in contents.parts[1:]:
            if data[part.start + 4 : part.start + 8] != b"IDAT":
                continue
            for start in range(part.start + 8, part.stop - 4, _BUFFER):
                compressed: bytes | memoryview = view[start : min(start + _BUFFER, part.stop - 4)]
                while compressed and received <= expected:
                    received += len(inflate.decompress(compressed, _BUFFER))
                    compressed = inflate.unconsumed_tail
    except zlib.error as error:
        raise damaged("PNG", f"its image data ({error})") from error
    if received != expected or not inflate.eof:
        raise damaged("PNG", f"image data of {received:,} bytes instead of {expected:,}")


def _passes(width: int, height: int, is_interlaced: bool) -> Iterator[tuple[int, int]]:
    """Yield width and height of each pass that has pixels."""
    steps = _INTERLACE if is_interlaced else ((0, 0, 1, 1),)
    for left, top, step_x, step_y in steps:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            yield columns, rows


def _check_palette(body: slice) -> None:
    colours, rest = divmod(body.stop - body.start, 3)
    if rest or not 1 <= colours <= 256:
        raise damaged("PNG", "a palette of a wrong length")


def _check_order(names: list[bytes], *, needs_palette: bool) -> None:
    """Check that there is image data in one piece, and at most one palette before it."""
    if b"IDAT" not in names:
        raise damaged("PNG", "no image data")
    first, count = names.index(b"IDAT"), names.count(b"IDAT")
    if names[first : first + count] != [b"IDAT"] * count:
        raise damaged("PNG", "image data in several places")
    palettes = names.count(b"PLTE")
    if palettes > 1 or b"PLTE" in names[first:] or (needs_palette and not palettes):
        raise damaged("PNG", "no palette before its image data, or several")
    if b"IHDR" in names:
        raise damaged("PNG", "two headers")
