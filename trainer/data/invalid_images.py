"""Image files that cannot be trained on: how they are recognized, and how they are reported."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving_client.formats import inspection
from trainer.errors import DataError, join_names


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
    """Read a file and check that its header is that of an image which training and serving decode alike.

    This decodes nothing: `find_undecodable` finds damaged coded data.

    Returns:
      SHA-256 (hex) of the file's bytes, "" if it cannot be read; an InvalidImage, or None for a valid one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", InvalidImage(path, f"cannot be read: {error.strerror}")
    reason = inspection.why_invalid(data) if _is_utf8(path) else "its name is not valid UTF-8"
    return hashlib.sha256(data).hexdigest(), InvalidImage(path, reason) if reason else None


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
