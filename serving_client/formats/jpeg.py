"""Read the segments of a JPEG file, up to its end marker.

Source: ITU-T T.81, annexes B and G.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving_client.formats.contents import MAX_BLOCKS, Contents, damaged, truncated, unsupported

MAX_SCANS = 200
"""Most scans of a progressive JPEG; usual ones have about 10. Decoding passes over the picture for each."""

_SOF_UNSUPPORTED = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "a lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "a hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA), "a JPEG with arithmetic coding"),
}
_TABLES = (0xC4, 0xDB)
_SOS, _DRI, _EOI, _APP0, _APP14 = 0xDA, 0xDD, 0xD9, 0xE0, 0xEE
_METADATA = (*range(0xE0, 0xF0), 0xFE)

_FILL = re.compile(rb"\xff+")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The first marker after coded data, in which 0xFF is followed by 0 or is a restart marker."""


def read(data: bytes) -> Contents:
    """Read the segments of a JPEG.

    Every coefficient of every component must be there. Decoders guess what is missing, each in its own way.

    Raises:
      ImageError: it is damaged, truncated, or of a kind that is not supported.
    """
    segments = _Segments(data)
    for _ in range(MAX_BLOCKS):
        if segments.read_next() == _EOI:
            frame = segments.frame
            if frame is None or not frame.is_complete:
                raise damaged("JPEG", "missing scans")
            return Contents("JPEG", frame.width_px, frame.height_px, tuple(segments.parts))
    raise damaged("JPEG", f"more than {MAX_BLOCKS:,} segments")


class _Segments:
    """The segments that have been read so far.

    Attributes:
      frame: what the frame header says, once it has been read.
      parts: where the bytes lie that decide the pixels.
    """

    def __init__(self, data: bytes) -> None:
        self.frame: _Frame | None = None
        self.parts = [slice(0, 2)]
        self._data = data
        self._position = 2
        self._restart_interval = 0
        self._scans = 0

    def read_next(self) -> int:
        """Read one segment, with the coded data that follows it; return its marker."""
        fill = _FILL.match(self._data, self._position)
        if fill is None or fill.end() == len(self._data):
            raise self._broken(self._position)
        marker, start = self._data[fill.end()], fill.end() - 1
        if marker == _EOI:
            self.parts.append(slice(start, start + 2))
            return marker
        body = start + 4
        end = start + 2 + int.from_bytes(self._data[start + 2 : body], "big")
        if end > len(self._data) or body > len(self._data):
            raise truncated("JPEG")
        if end < body:
            raise damaged("JPEG", "a segment without a length")
        self._position = end
        self._read_segment(marker, self._data[body:end])
        if marker not in _METADATA or marker == _APP0 or self._is_adobe(marker, body, end):
            self.parts.append(slice(start, self._position))
        return marker

    def _broken(self, position: int) -> Exception:
        return (
            truncated("JPEG")
            if position >= len(self._data) - 2
            else damaged("JPEG", "bytes between segments")
        )

    def _is_adobe(self, marker: int, body: int, end: int) -> bool:
        # As libjpeg recognizes it: a shorter one does not count.
        return marker == _APP14 and self._data.startswith(b"Adobe", body) and end - body >= 12

    def _read_segment(self, marker: int, body: bytes) -> None:
        if marker in (0xC0, 0xC1, 0xC2):
            if self.frame:
                raise damaged("JPEG", "two frame headers")
            self.frame = _Frame(body, is_progressive=marker == 0xC2)
        elif marker == _SOS:
            self._read_scan(body)
        elif marker == _DRI and len(body) == 2:
            self._restart_interval = int.from_bytes(body, "big")
        elif marker in _SOF_UNSUPPORTED:
            raise unsupported(_SOF_UNSUPPORTED[marker])
        elif marker not in (*_TABLES, *_METADATA):
            raise damaged("JPEG", f"an unexpected segment 0x{marker:02X}")

    def _read_scan(self, body: bytes) -> None:
        if self.frame is None:
            raise damaged("JPEG", "a scan before the frame header")
        self._scans += 1
        if self._scans > MAX_SCANS:
            raise unsupported(f"a JPEG with more than {MAX_SCANS} scans")
        units = self.frame.add_scan(body)
        after = _AFTER_SCAN.search(self._data, self._position)
        if after is None:
            raise truncated("JPEG")
        restarts = _RESTART.findall(self._data, self._position, after.start())
        expected = (units - 1) // self._restart_interval if self._restart_interval else 0
        cycle = bytes(range(0xD0, 0xD8)) * (expected // 8 + 1)
        if b"".join(restarts) != cycle[:expected]:
            raise damaged("JPEG", "lost or repeated parts of its coded data (restart markers)")
        self._position = after.start()


class _Frame:
    """The frame header, and which bits of which coefficients the scans have brought so far."""

    def __init__(self, body: bytes, *, is_progressive: bool) -> None:
        if len(body) < 6 or len(body) != 6 + 3 * body[5]:
            raise damaged("JPEG", "a frame header of a wrong length")
        if body[0] != 8:
            raise unsupported(f"a JPEG with {body[0]} bits")
        self.height_px = int.from_bytes(body[1:3], "big")
        self.width_px = int.from_bytes(body[3:5], "big")
        self._is_progressive = is_progressive
        self._sampling = {body[at]: divmod(body[at + 1], 16) for at in range(6, len(body), 3)}
        if len(self._sampling) != body[5] or body[5] not in (1, 3, 4):
            raise unsupported(f"a JPEG with {body[5]} components")
        if not all(1 <= factor <= 4 for factors in self._sampling.values() for factor in factors):
            raise damaged("JPEG", "a frame header with wrong sampling factors")
        # The lowest bit that is known of each coefficient; -1: none.
        self._lowest_bit = {component: [-1] * 64 for component in self._sampling}

    @property
    def is_complete(self) -> bool:
        """Whether the scans have brought all bits of all coefficients."""
        return all(not any(bits) for bits in self._lowest_bit.values())

    def add_scan(self, body: bytes) -> int:
        """Take a scan header; return the number of coded units (MCUs) that follow it."""
        if not body or not 1 <= body[0] <= 4 or len(body) != 4 + 2 * body[0]:
            raise damaged("JPEG", "a scan header of a wrong length")
        components = body[1:-3:2]
        if len(set(components)) != body[0] or not self._sampling.keys() >= set(components):
            raise damaged("JPEG", "a scan of an unknown component")
        if self._is_progressive:
            first, last, bits = body[-3], body[-2], divmod(body[-1], 16)
            if not first <= last <= 63 or (first == 0) != (last == 0) or (first and len(components) > 1):
                raise damaged("JPEG", "a scan of impossible coefficients")
        else:
            first, last, bits = 0, 63, (0, 0)
        for component in components:
            self._add_bits(component, range(first, last + 1), *bits)
        return self._units(components)

    def _add_bits(self, component: int, coefficients: range, high: int, low: int) -> None:
        known = self._lowest_bit[component]
        expected = {-1} if high == 0 else {high}
        follows = set(known[coefficients.start : coefficients.stop]) == expected and high in (0, low + 1)
        if not follows or low > 13 or (coefficients.start and known[0] < 0):
            raise damaged("JPEG", "scans that do not follow each other")
        known[coefficients.start : coefficients.stop] = [low] * len(coefficients)

    def _units(self, components: Sequence[int]) -> int:
        widest = max(width for width, _ in self._sampling.values())
        tallest = max(height for _, height in self._sampling.values())
        if len(components) > 1:
            return -(-self.width_px // (8 * widest)) * -(-self.height_px // (8 * tallest))
        width, height = self._sampling[components[0]]
        return -(-self.width_px * width // (8 * widest)) * -(-self.height_px * height // (8 * tallest))
