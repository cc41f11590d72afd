"""Small pictures of every kind of file that is valid, and files that are not; all made here, none stored."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

_INTERLACE = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_LEVELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def photograph(seed: int = 0, size: tuple[int, int] = (60, 44)) -> Image.Image:
    """Return smooth colours with some noise, so that differences in decoding show."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8))
    levels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((levels + rng.integers(-12, 12, levels.shape)).clip(0, 255).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(8).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def with_alpha() -> Image.Image:
    image = photograph().convert("RGBA")
    image.putalpha(photograph(5).convert("L"))
    return image


def encode(format_name: str, image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **options)
    return buffer.getvalue()


def cmyk(*, adobe: bool) -> bytes:
    """Return a CMYK JPEG with all four inks, with or without the marker that says that they are inverted."""
    inks = Image.merge("CMYK", [*photograph().split(), photograph(3).split()[0]])
    data = encode("JPEG", inks, quality=95)
    start = data.index(b"\xff\xee")
    return data if adobe else data[:start] + data[start + 16 :]


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    size: tuple[int, int] = (21, 13),
    depth: int = 8,
    colour_type: int = 2,
    *,
    interlaced: bool = False,
    chunks: tuple[bytes, ...] = (),
    pixels: bytes | None = None,
    compressed: bytes | None = None,
) -> bytes:
    """Return a PNG of noise, or of these filtered rows, or of this compressed data."""
    if pixels is None:
        pixels = _noise_rows(size, depth * _LEVELS[colour_type], interlaced)
    header = struct.pack(">2I5B", *size, depth, colour_type, 0, 0, int(interlaced))
    palette = png_chunk(b"PLTE", bytes(range(3 * 2**depth))) if colour_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + palette
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(pixels) if compressed is None else compressed)
        + png_chunk(b"IEND", b"")
    )


def _noise_rows(size: tuple[int, int], bits: int, interlaced: bool) -> bytes:
    rng = np.random.default_rng(4)
    rows = []
    for left, top, step_x, step_y in _INTERLACE if interlaced else ((0, 0, 1, 1),):
        width, height = -(-(size[0] - left) // step_x), -(-(size[1] - top) // step_y)
        if width > 0:
            rows += [b"\0" + rng.bytes(-(-width * bits // 8)) for _ in range(height)]
    return b"".join(rows)


def png_with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 300)
    text.add_text("c", "d" * 3000, zip=True)
    text.add_itxt("e", "f" * 100)
    return encode("PNG", photograph(), pnginfo=text, dpi=(72, 72), exif=exif())


def exif() -> Image.Exif:
    """Return Exif data with an orientation, a quarter turn."""
    data = Image.Exif()
    data[0x0112] = 6
    data[0x010F] = "a maker"
    return data


def bmp(header_bytes: int, bits: int, *, top_down: bool = False, masks: bool = False) -> bytes:
    """Return a BMP of noise, 21 × 13."""
    width, height = 21, 13
    row_bytes = (width * bits // 8 + 3) // 4 * 4
    pixels = np.random.default_rng(6).bytes(row_bytes * height)
    greys = b"".join(bytes([level, level, level, 0]) for level in range(256)) if bits == 8 else b""
    rows = -height if top_down else height
    header = struct.pack(
        "<I2i2H6I", header_bytes, width, rows, 1, bits, 3 * masks, len(pixels), 2835, 2835, 0, 0
    )
    header = (header + struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)).ljust(header_bytes, b"\0")
    header = header[: max(header_bytes, 52 if masks else 0)]
    if masks and header_bytes == 40:
        header += struct.pack("<I", 0xFF)
    start = 14 + len(header) + len(greys)
    return b"BM" + struct.pack("<I2HI", start + len(pixels), 0, 0, start) + header + greys + pixels


@functools.cache
def pictures() -> dict[str, bytes]:
    """Return one file of each kind that is valid; a name begins with the format's."""
    photo, alpha = photograph(), with_alpha()
    frames = {"save_all": True, "append_images": [photograph(1), photograph(2)]}
    frames_with_alpha = {"save_all": True, "append_images": [photograph(1).convert("RGBA")]}
    return {
        "JPEG": encode("JPEG", photo),
        "JPEG 4:4:4": encode("JPEG", photo, subsampling=0, quality=95),
        "JPEG 4:2:2": encode("JPEG", photo, subsampling=1),
        "JPEG progressive": encode("JPEG", photo, progressive=True),
        "JPEG grey": encode("JPEG", photo.convert("L")),
        "JPEG grey progressive": encode("JPEG", photo.convert("L"), progressive=True),
        "JPEG CMYK of Adobe": cmyk(adobe=True),
        "JPEG CMYK": cmyk(adobe=False),
        "JPEG stored as RGB": encode("JPEG", photo, keep_rgb=True),
        "JPEG with metadata": encode("JPEG", photo, exif=exif(), dpi=(72, 72), comment=b"a comment"),
        "JPEG with restart markers": encode("JPEG", photo, restart_marker_blocks=2),
        "JPEG of several pictures": encode("MPO", photo, save_all=True, append_images=[photograph(9)]),
        "JPEG large": encode("JPEG", noise(260, 200), quality=95),
        "JPEG large progressive": encode("JPEG", noise(260, 200), quality=95, progressive=True),
        "PNG": encode("PNG", photo),
        "PNG alpha": encode("PNG", alpha),
        "PNG grey": encode("PNG", photo.convert("L")),
        "PNG grey alpha": encode("PNG", alpha.convert("LA")),
        "PNG 1 bit": encode("PNG", photo.convert("1")),
        "PNG 2 bits, interlaced": png(depth=2, colour_type=0, interlaced=True),
        "PNG palette": encode("PNG", photo.quantize(64)),
        "PNG palette of 4 bits": encode("PNG", photo.quantize(9)),
        "PNG palette with transparency": encode("PNG", photo.quantize(64), transparency=3),
        "PNG palette, interlaced": png(depth=4, colour_type=3, interlaced=True),
        "PNG transparent colour": encode("PNG", photo, transparency=(1, 2, 3)),
        "PNG 16 bits grey": png(depth=16, colour_type=0),
        "PNG 16 bits": png(depth=16, colour_type=2),
        "PNG 16 bits grey alpha": png(depth=16, colour_type=4),
        "PNG 16 bits alpha, interlaced": png(depth=16, colour_type=6, interlaced=True),
        "PNG interlaced": png(interlaced=True),
        "PNG with metadata": png_with_text(),
        "GIF": encode("GIF", photo),
        "GIF of 16 colours": encode("GIF", photo.quantize(16)),
        "GIF transparent": encode("GIF", photo.quantize(16), transparency=5),
        "GIF grey": encode("GIF", photo.convert("L")),
        "GIF not interlaced": encode("GIF", photo, interlace=0),
        "GIF animated": encode("GIF", photo, comment=b"a comment", **frames),
        "BMP": bmp(40, 24),
        "BMP top-down": bmp(40, 24, top_down=True),
        "BMP 32 bits": bmp(40, 32),
        "BMP 32 bits with masks": bmp(40, 32, masks=True),
        "BMP grey": bmp(40, 8),
        "BMP version 2": bmp(52, 24),
        "BMP version 3": bmp(56, 32, masks=True),
        "BMP version 2 of OS 2": bmp(64, 8, top_down=True),
        "BMP version 4": bmp(108, 24),
        "BMP version 5": bmp(124, 32, masks=True),
        "WebP": encode("WEBP", photo),
        "WebP lossless": encode("WEBP", photo, lossless=True),
        "WebP alpha": encode("WEBP", alpha),
        "WebP lossless alpha": encode("WEBP", alpha, lossless=True),
        "WebP with metadata": encode("WEBP", photo, exif=exif()),
        "WebP animated": encode("WEBP", photo, **frames),
        "WebP animated, lossless": encode("WEBP", alpha, lossless=True, **frames_with_alpha),
    }


def numbered_picture(text: str) -> bytes:
    """Return a GIF of one black pixel whose comment makes its bytes differ from others."""
    comment = text.encode()
    return (
        b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff"
        + (b"\x21\xfe" + bytes([len(comment)]) + comment + b"\0" if comment else b"")
        + b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0\x3b"
    )


def undecodable_picture() -> bytes:
    """Return a PNG with a valid header and checksums, whose image data is too short."""
    return png(pixels=b"\0" * 100)
