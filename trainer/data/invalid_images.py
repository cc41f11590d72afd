"""Image files that cannot be trained on: how they are recognized, and how they are reported."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from serving_client.heif import heif_format, why_unsupported
from trainer.errors import DataError, join_names

_JPEG_OR_PNG = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""First bytes of the formats that TensorFlow and Pillow decode alike."""


@dataclasses.dataclass(frozen=True)
class InvalidImage:
    """A file that cannot be trained on, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        # A name that is not valid UTF-8 cannot be printed.
        name = str(self.path) if _is_utf8(self.path) else ascii(self.path.name)
        return f"{name} ({self.reason})"


def inspect_image_file(path: Path) -> tuple[str, InvalidImage | None]:
    """Read a file and check that it looks like an image that training and serving can decode.

    This does not decode JPEG and PNG: `find_undecodable` finds truncated ones.

    Returns:
      SHA-256 (hex) of the file's bytes, "" if it cannot be read; an InvalidImage, or None for a valid one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", InvalidImage(path, f"cannot be read: {error.strerror}")
    reason = _why_invalid(path, data)
    return hashlib.sha256(data).hexdigest(), InvalidImage(path, reason) if reason else None


def _why_invalid(path: Path, data: bytes) -> str | None:
    if not _is_utf8(path):
        return "its name is not valid UTF-8"
    if not data:
        return "zero bytes"
    if data.startswith(_JPEG_OR_PNG):
        return None
    if heif_format(data):
        return why_unsupported(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return None
    if not data.startswith((b"BM", b"GIF8")):
        return "not a JPEG, PNG, BMP, GIF, WebP, HEIC or AVIF file"
    # TensorFlow decodes a palette's indices as grey levels, and misplaces a first frame that is smaller
    # than the canvas.
    try:
        with Image.open(io.BytesIO(data), formats=("BMP", "GIF")) as image:
            if image.format == "BMP" and image.mode in ("1", "P"):
                return "a BMP with a palette: save it as PNG"
            if image.format == "GIF" and image.tile and image.tile[0][1] != (0, 0, *image.size):
                return "the first frame does not fill the GIF's canvas: save it as PNG"
    except (OSError, ValueError, SyntaxError) as error:
        return " ".join(str(error).split())
    return None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def invalid_images_error(
    invalid: Sequence[InvalidImage], total: int, *, can_be_skipped: bool = True
) -> DataError:
    """Return the error that names the invalid images.

    Args:
      total: number of images, valid and invalid.
      can_be_skipped: whether the command has the flag `--on-invalid-image`.
    """
    skip = ", or pass --on-invalid-image skip" if can_be_skipped else ""
    return DataError(
        f"{len(invalid)} of {total} images are invalid: {join_names(map(str, invalid))}. Fix or remove "
        f"them{skip}."
    )


def empty_class_error(name: str, invalid: Sequence[str]) -> DataError:
    """Return the error for a class of which every image is invalid.

    Args:
      invalid: the class's images, with reasons where they are known.
    """
    return DataError(
        f"Class {name!r} must have at least one valid image. Received: {len(invalid)} invalid image(s): "
        f"{join_names(invalid, most=3)}. Add images or remove the class."
    )


def invalid_images_json(invalid: Iterable[InvalidImage]) -> str:
    """Return a JSON list of {"path", "reason"}.

    The text is ASCII, because a file name that is not valid UTF-8 holds lone surrogates (os.fsdecode).
    """
    return json.dumps([{"path": str(image.path), "reason": image.reason} for image in invalid], indent=2)
