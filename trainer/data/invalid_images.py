"""Which files are no usable images, and why: what is refused is refused before the network is built."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from trainer.errors import DataError

_DECODED_ALIKE = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclasses.dataclass(frozen=True)
class InvalidImage:
    """A file that cannot be trained on, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        # A name that is no UTF-8 could not be printed.
        shown = str(self.path) if _is_utf8(self.path) else ascii(self.path.name)
        return f"{shown} ({self.reason})"


def invalid_images_error(
    bad: Sequence[InvalidImage], total: int, *, can_be_skipped: bool = True
) -> DataError:
    """Return the error that names the bad files.

    Args:
      total: of images, good and bad.
      can_be_skipped: whether the command takes `--on-invalid-image`.
    """
    otherwise = ", or pass --on-invalid-image skip" if can_be_skipped else ""
    return DataError(
        f"{len(bad)} of {total} images cannot be used: {join_names(map(str, bad))}. Mend or remove "
        f"them{otherwise}."
    )


def invalid_images_json(bad: Iterable[InvalidImage]) -> str:
    """Return a JSON list of {"path", "reason"}.

    It is ASCII: bytes of a name that are no UTF-8 are lone surrogates, as os.fsdecode makes them.
    """
    return json.dumps([{"path": str(one.path), "reason": one.reason} for one in bad], indent=2)


def inspect_image_file(path: Path) -> tuple[str, InvalidImage | None]:
    """Return the SHA-256 (hex) of a file's bytes and, if it cannot be used, why.

    That a picture decodes to its end shows only when it is decoded (pipeline.undecodable).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", InvalidImage(path, f"cannot be read: {error.strerror}")
    reason = _refusal(path, data)
    return hashlib.sha256(data).hexdigest(), InvalidImage(path, reason) if reason else None


def _refusal(path: Path, data: bytes) -> str | None:
    if not _is_utf8(path):
        return "its name is no UTF-8"
    if not data:
        return "zero bytes"
    if data.startswith(_DECODED_ALIKE):
        return None
    if not data.startswith((b"BM", b"GIF8")):
        return "no JPEG, PNG, BMP or GIF"
    # TensorFlow reads a palette's indices as grey levels, and misplaces a frame that is no whole one.
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


def join_names(names: Iterable[str], most: int = 10) -> str:
    """Return at most so many names, and how many more there are, for a message."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
