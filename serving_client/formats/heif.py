"""Open HEIC and AVIF images, which TensorFlow does not decode.

They are sent as pixels, or as a lossless copy. HEIC needs the package pillow-heif, AVIF needs Pillow 11.3.
The extra `heif` installs both.
"""

from __future__ import annotations

import functools
import io
from typing import Literal

from PIL import Image

from serving_client.errors import ImageError

SUFFIXES = (".heic", ".heif", ".avif")
INSTALL = "pip install 'image-classifier-on-kubernetes[heif]'"

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def heif_format(data: bytes) -> Literal["HEIC", "AVIF"] | None:
    """Return which of the two formats the bytes begin as; None for any other.

    Source: ISO/IEC 14496-12, 4.3 (the box ftyp and its brands); ISO/IEC 23008-12; the AVIF specification.
    """
    if data[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(data[:4], "big"), 1024)
    brands = {data[start : start + 4] for start in (8, *range(16, size, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


def why_unsupported(data: bytes) -> str | None:
    """Say which package this installation lacks for an HEIC or AVIF image; None if it has it."""
    name = heif_format(data)
    return None if _reader(name) else f"{name} files need another package: {INSTALL}"


def open_heif(data: bytes) -> Image.Image:
    """Open an HEIC or AVIF image, as Image.open does.

    Raises:
      ImageError: this installation cannot read the format; the message says what to install.
    """
    if reason := why_unsupported(data):
        raise ImageError(reason)
    reader = _reader(heif_format(data))
    assert reader is not None
    return Image.open(io.BytesIO(data), formats=(reader,))


@functools.cache
def _reader(name: str | None) -> str | None:
    """Return the name of Pillow's reader of the format, registered; None if it is not installed."""
    if name == "AVIF":
        try:
            from PIL import AvifImagePlugin
        except ImportError:  # Pillow before 11.3
            return None
        return "AVIF" if AvifImagePlugin.SUPPORTED else None
    try:
        import pillow_heif
    except ImportError:
        return None
    pillow_heif.register_heif_opener()
    return "HEIF"
