"""Read the chunks of a WebP file.

Source: RFC 9649, WebP Image Format; RFC 6386 for the header of lossy images.
"""

from __future__ import annotations

from collections.abc import Iterator

from serving_client.formats.contents import Contents, damaged, truncated, unsupported

_BITSTREAMS = (b"VP8 ", b"VP8L")
_FRAME_HEADER = 16
_MAX_CHUNKS = 1000


def read(data: bytes) -> Contents:
    """Read the chunks of a WebP; the pixels of an animated one are those of its first frame.

    Only the first lossy or lossless bitstream decides the pixels (`webp_frame.py`). Alpha is dropped.

    Raises:
      ImageError: it is damaged or truncated, or its first frame does not fill the canvas.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated("WebP")
    chunks = list(_chunks(data, 12, end))
    if not chunks:
        raise damaged("WebP", "no picture")
    canvas = None
    if chunks[0][0] == b"VP8X":
        header = data[chunks[0][1]]
        if len(header) != 10:
            raise damaged("WebP", "a header of a wrong length")
        canvas = _plus_one(header[4:7]), _plus_one(header[7:10])
    bitstream = _first_bitstream(data, chunks)
    size = _size(data[bitstream.start - 8 : bitstream.start + 10])
    if canvas not in (None, size):
        raise unsupported("a WebP whose first frame does not fill its canvas")
    return Contents("WebP", *size, (slice(0, end),))


def _chunks(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, slice]]:
    """Yield the name of each chunk and where its body lies."""
    for _ in range(_MAX_CHUNKS):
        if position == end:
            return
        body = position + 8
        length = int.from_bytes(data[position + 4 : body], "little")
        if body + length > end:
            raise damaged("WebP", "a chunk that is longer than the file")
        yield data[position : position + 4], slice(body, body + length)
        position = min(body + length + length % 2, end)
    raise damaged("WebP", f"more than {_MAX_CHUNKS:,} chunks")


def _first_bitstream(data: bytes, chunks: list[tuple[bytes, slice]]) -> slice:
    """Return where the body of the first bitstream lies, which may be in a frame of an animation."""
    for name, body in chunks:
        if name in _BITSTREAMS:
            return body
        if name == b"ANMF":
            if any(data[body][:6]):  # its left and its top
                raise unsupported("a WebP whose first frame does not fill its canvas")
            return _first_bitstream(
                data,
                [
                    chunk
                    for chunk in _chunks(data, body.start + _FRAME_HEADER, body.stop)
                    if chunk[0] != b"ANMF"
                ],
            )
    raise damaged("WebP", "no picture")


def _size(chunk: bytes) -> tuple[int, int]:
    """Return width and height from the first 18 bytes of a bitstream's chunk."""
    header = chunk[8:]
    if chunk.startswith(b"VP8 "):
        if len(header) < 10 or header[3:6] != b"\x9d\x01\x2a" or header[0] & 1:
            raise damaged("WebP", "a lossy picture without its header")
        # The upper two bits of each size ask the viewer to scale; decoders ignore them.
        return _number(header[6:8]) & 0x3FFF, _number(header[8:10]) & 0x3FFF
    if len(header) < 5 or header[0] != 0x2F or header[4] >> 5:
        raise damaged("WebP", "a lossless picture without its header")
    sizes = _number(header[1:5])
    return (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _plus_one(data: bytes) -> int:
    return _number(data) + 1
