"""What a file's header says about its picture, the sizes that a picture may have, and why one is refused.

An error's message names what came, without a verb or a full stop, for a caller's sentence or list.
"""

from __future__ import annotations

import dataclasses

from serving_client.errors import ImageError

MAX_PIXELS = 89_478_485
"""Most pixels of a picture: above this Pillow warns of a decompression bomb.

TensorFlow's limits are higher: 2**29 levels in a JPEG, 2**29 pixels in a PNG, 2**28 in a BMP.
"""

MAX_SIDE_PX = 65_500
"""Most pixels of a side: libjpeg's limit for JPEG, applied to all formats (JPEG_MAX_DIMENSION)."""

MAX_BLOCKS = 100_000
"""Most segments, chunks or blocks of a file, so that reading them takes less than a second."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """A picture as its file's header describes it.

    Attributes:
      format: "JPEG", "PNG", "GIF", "BMP" or "WebP".
      width_px, height_px: before a turn by its EXIF orientation; at least 1.
      parts: where the bytes lie that decide the pixels. The rest is metadata and further frames.
      palette_size: number of colours of a GIF's first frame; 0 for other formats.
    """

    format: str
    width_px: int
    height_px: int
    parts: tuple[slice, ...]
    palette_size: int = 0

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
          ImageError: a side is 0, or larger than the limits above.
        """
        received = f"a {self.format} of {self.width_px:,} × {self.height_px:,} pixels"
        if not self.width_px or not self.height_px:
            raise ImageError(received)
        if max(self.width_px, self.height_px) > MAX_SIDE_PX:
            raise ImageError(f"{received}: a side may have up to {MAX_SIDE_PX:,}")
        if self.width_px * self.height_px > MAX_PIXELS:
            raise ImageError(f"{received}: there may be up to {MAX_PIXELS:,}")


def truncated(name: str) -> ImageError:
    """Return the error for a file that ends too early."""
    return ImageError(f"a truncated {name}")


def damaged(name: str, what: str) -> ImageError:
    """Return the error for a file that breaks its format: "a damaged PNG: no image data"."""
    return ImageError(f"a damaged {name}: {what}")


def unsupported(kind: str) -> ImageError:
    """Return the error for a file that decoders do not read alike: "a lossless JPEG: save it as PNG"."""
    return ImageError(f"{kind}: save it as PNG")
