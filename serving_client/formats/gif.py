"""Read the blocks of a GIF file, up to its trailer.

Source: Graphics Interchange Format, version 89a, CompuServe.
"""

from __future__ import annotations

import dataclasses

from serving_client.formats.contents import MAX_BLOCKS, Contents, damaged, truncated, unsupported

MAX_ALL_PIXELS = 2**28
"""Most pixels of all frames together: TensorFlow decodes all of them, and keeps the first."""

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_CODE_SIZES = tuple(bytes([bits]) for bits in range(2, 9))
"""LZW minimum code sizes. With others Pillow leaves the picture black, and giflib refuses the file."""


def read(data: bytes) -> Contents:
    """Read the blocks of a GIF; the pixels are those of its first frame.

    Raises:
      ImageError: it is damaged or truncated, or its first frame does not fill the canvas.
    """
    if data[:6] not in (b"GIF87a", b"GIF89a") or len(data) < 13:
        raise damaged("GIF", "a header of an unknown version")
    contents = Contents("GIF", _number(data, 6), _number(data, 8), ())
    blocks = _Blocks(data, contents.width_px, contents.height_px)
    while blocks.read_next():
        pass
    if not blocks.frames:
        raise damaged("GIF", "no frame")
    return dataclasses.replace(contents, parts=tuple(blocks.parts), palette_size=blocks.palette_size)


class _Blocks:
    """The blocks that have been read so far.

    Attributes:
      frames: number of frames.
      palette_size: number of colours of the first frame.
      parts: where the bytes lie that decide the first frame's pixels.
    """

    def __init__(self, data: bytes, width_px: int, height_px: int) -> None:
        self.frames = 0
        self._data = data
        self._canvas = width_px, height_px
        self.palette_size = _palette_size(data[10])
        self._position = 13 + 3 * self.palette_size
        self._all_pixels = 0
        self._read = 0
        self.parts = [slice(0, self._position)]

    def read_next(self) -> bool:
        """Read one block; return False at the trailer."""
        self._read += 1
        if self._read > MAX_BLOCKS:
            raise damaged("GIF", f"more than {MAX_BLOCKS:,} blocks")
        start = self._position
        if start >= len(self._data):
            raise truncated("GIF")
        kind = self._data[start]
        if kind == _TRAILER:
            self.parts.append(slice(start, start + 1))
            return False
        if kind == _EXTENSION:
            label = self._data[start + 1 : start + 2]
            self._skip_blocks(start + 2)
            if label == bytes([_GRAPHIC_CONTROL]) and not self.frames:
                self.parts.append(slice(start, self._position))
        elif kind == _IMAGE:
            self._read_image(start)
            if self.frames == 1:
                self.parts.append(slice(start, self._position))
        else:
            raise damaged("GIF", f"an unexpected block 0x{kind:02X}")
        return True

    def _read_image(self, start: int) -> None:
        if start + 11 > len(self._data):
            raise truncated("GIF")
        flags = self._data[start + 9]
        left, top, width, height = (_number(self._data, start + at) for at in (1, 3, 5, 7))
        self.frames += 1
        if self.frames == 1 and (left, top, width, height) != (0, 0, *self._canvas):
            raise unsupported("a GIF whose first frame does not fill its canvas")
        if self.frames == 1:
            self.palette_size = _palette_size(flags) or self.palette_size
            if not self.palette_size:
                raise damaged("GIF", "a frame without a palette")
        self._all_pixels += width * height
        if self._all_pixels > MAX_ALL_PIXELS:
            raise unsupported(f"a GIF with more than {MAX_ALL_PIXELS:,} pixels in all its frames")
        image_data = start + 10 + 3 * _palette_size(flags)
        if self.frames == 1 and self._data[image_data : image_data + 1] not in _CODE_SIZES:
            raise damaged("GIF", "an impossible code size")
        self._skip_blocks(image_data + 1)

    def _skip_blocks(self, position: int) -> None:
        """Move behind sub-blocks, each of which begins with its length; one of length 0 is the last."""
        while position < len(self._data):
            length = self._data[position]
            position += 1 + length
            if not length:
                self._position = position
                return
        raise truncated("GIF")


def _number(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 2], "little")


def _palette_size(flags: int) -> int:
    """Return the number of colours of the palette that follows; 0 if none follows."""
    return 2 ** (flags % 8 + 1) if flags >= 0x80 else 0
