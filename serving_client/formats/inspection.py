"""The one definition of a valid picture, which the trainer's scan and the client share.

A picture is valid when its file's header is complete and consistent, and within the limits of
headers/contents.py. The header is read here, in a time that grows with the file's length alone, and no
decoder sees a file that is refused. Damage that only decoding reveals is found by `decoding.decode`, and by
the trainer when it first reads a file.
"""

from __future__ import annotations

from collections.abc import Callable

from serving_client.errors import ImageError
from serving_client.formats import bmp, gif, jpeg, png, webp
from serving_client.formats.contents import Contents
from serving_client.formats.heif import heif_format, why_unsupported

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP")

_READERS: dict[str, Callable[[bytes], Contents]] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "GIF": gif.read,
    "BMP": bmp.read,
    "WebP": webp.read,
}

_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, png.SIGNATURE, "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\x01\0", "icon"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"\x1f\x8b", "gzip"),
)

_TEXT_STARTS = (
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
    (b"version https://git-lfs", "Git LFS pointer"),
)


def format_of(data: bytes) -> str | None:
    """Name a file's format from its first bytes; None for an unknown one.

    The name may be one of FORMATS, or another that people use for pictures: "TIFF", "HEIC", "HTML".
    """
    for start, signature, name in _SIGNATURES:
        if data.startswith(signature, start) and (name != "WebP" or data.startswith(b"RIFF")):
            return name
    if heif := heif_format(data):
        return heif
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start_of_text, name in _TEXT_STARTS:
        if text.startswith(start_of_text):
            return "SVG" if b"<svg" in text else name
    return None


def inspect(data: bytes) -> Contents:
    """Read the header of an image file: its format, its size, and where its pixels lie.

    Raises:
      ImageError: the file is not a valid picture. The message is what came instead: "a truncated PNG".
    """
    if not data:
        raise ImageError("zero bytes")
    name = format_of(data)
    if name not in _READERS:
        raise ImageError(
            f"a file of the format {name}" if name else f"{len(data):,} bytes of an unknown format"
        )
    return _READERS[name](data)


def why_invalid(data: bytes) -> str | None:
    """Return what came instead of a valid picture, as `inspect` does; None for a valid one.

    An HEIC or AVIF file is valid if this installation has its decoder. TensorFlow gets a lossless copy of it.
    """
    if heif_format(data):
        return why_unsupported(data)
    try:
        inspect(data)
    except ImageError as error:
        return str(error)
    return None
