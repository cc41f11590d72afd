"""Damage image files in the ways that uploads, disks and attackers do; every choice comes from a seed."""

from __future__ import annotations

import itertools
import random
import re
import struct
import zlib
from collections.abc import Callable

_EXTREMES = (0, 1, 2, 127, 128, 255, 0xFF00, 0xFFFF, 0x7FFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEADER_BYTES = 60


def mutated(data: bytes, seed: int) -> bytes:
    """Return the file with one to three changes.

    Mostly the checksums and lengths that cover the whole file are corrected, so that the change reaches
    the decoders.
    """
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data:
            data = rng.choice(_CHANGES)(data, rng)
    return _with_checksums(data) if rng.random() < 0.7 else data


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_a_header_bit(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(min(len(data), _HEADER_BYTES))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _replace_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4))):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def _set_a_header_field(data: bytes, rng: random.Random) -> bytes:
    """Write an extreme number where a size, count or offset may be."""
    start, count = rng.randrange(min(len(data), _HEADER_BYTES)), rng.choice((1, 2, 4))
    field = rng.choice(_EXTREMES).to_bytes(4, "big")[-count:]
    return data[:start] + field[:: rng.choice((1, -1))] + data[start + count :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if rng.random() < 0.6 else data[: -rng.randrange(1, 8)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 4, 30))) + data[start:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 2, 4, 30)) :]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 100)))


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    """Write zeros or ones over a piece, as a bad disk does."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 3, 20, 200)))
    return data[:start] + bytes([rng.choice((0, 255))]) * (stop - start) + data[stop:]


def _repeat_a_piece(data: bytes, rng: random.Random) -> bytes:
    pieces = _pieces(data)
    pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(pieces))
    return b"".join(pieces)


def _drop_a_piece(data: bytes, rng: random.Random) -> bytes:
    pieces = _pieces(data)
    del pieces[rng.randrange(len(pieces))]
    return b"".join(pieces)


def _swap_two_pieces(data: bytes, rng: random.Random) -> bytes:
    pieces = _pieces(data)
    one, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    return b"".join(pieces)


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bits,
    _flip_a_header_bit,
    _replace_bytes,
    _set_a_header_field,
    _truncate,
    _insert,
    _delete,
    _append,
    _overwrite,
    _repeat_a_piece,
    _drop_a_piece,
    _swap_two_pieces,
)


def _pieces(data: bytes) -> list[bytes]:
    """Cut a file into its segments, chunks or blocks."""
    if data.startswith(b"\xff\xd8"):
        starts = [match.start() for match in re.finditer(rb"\xff[\x01-\xfe]", data)]
    elif data.startswith(b"\x89PNG"):
        starts = _chunk_starts(data, 8, ">I", 12)
    elif data.startswith(b"RIFF"):
        starts = _chunk_starts(data, 12, "<I", 8, 4)
    elif data.startswith(b"GIF"):
        starts = _gif_starts(data)
    else:
        starts = [14, 54]
    cuts = sorted({0, *(start for start in starts if start < len(data)), len(data)})
    return [data[start:stop] for start, stop in itertools.pairwise(cuts)]


def _chunk_starts(data: bytes, first: int, number: str, overhead: int, length_at: int = 0) -> list[int]:
    starts, start = [], first
    while start + 8 <= len(data):
        starts.append(start)
        (length,) = struct.unpack_from(number, data, start + length_at)
        start += overhead + length + (length % 2 if length_at else 0)
    return starts


def _gif_starts(data: bytes) -> list[int]:
    def palette_bytes(at: int) -> int:
        return 3 * 2 ** (data[at] % 8 + 1) if at < len(data) and data[at] >= 0x80 else 0

    starts, start = [], 13 + palette_bytes(10)
    while start < len(data) and data[start] != 0x3B:
        starts.append(start)
        start += 2 if data[start] == 0x21 else 11 + palette_bytes(start + 9)
        while start < len(data) and data[start]:
            start += 1 + data[start]
        start += 1
    return [*starts, start]


def _with_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG and the length of a WebP."""
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    fixed, start = data[:8], 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        fixed += data[start:end] + struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4
    return fixed + data[start:]
