"""Files on shared storage: written whole or not at all, and refusals of the file system in one line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from trainer.errors import StorageError

_PARTIAL = ".partial"
# By name: importing TensorFlow takes seconds, and not every command needs it.
_TENSORFLOW_REFUSALS = ("NotFoundError", "PermissionDeniedError", "ResourceExhaustedError")


@contextmanager
def explain_errors(what: str, path: Path) -> Iterator[None]:
    """Turn a file system's refusal inside the block into a StorageError."""
    try:
        yield
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise StorageError(
            f"{what}: {path}: {reason}. Check that the volume is there, has space, and that this user may "
            "write to it."
        ) from error


def _refusal(error: Exception) -> str | None:
    """Return what a file system said, to Python or to TensorFlow; None: it was not a file system."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__module__.startswith("tensorflow.") and type(error).__name__ in _TENSORFLOW_REFUSALS:
        return str(getattr(error, "message", error))
    return None


def write_atomically(path: Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Replace a file so that a reader, or a crash, finds either the old content or the new.

    Args:
      content: text, or a function that writes to the open file.
    """
    # A name of its own: several workers may be writing the same file.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_partial(directory: Path, older_than_s: float) -> None:
    """Remove what processes that were killed had begun to write into a directory."""
    for partial in directory.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):  # it is being renamed
            if time.time() - partial.stat().st_mtime > older_than_s:
                partial.unlink()


def sync_tree(directory: Path) -> None:
    """Have every file and folder reach the disk."""
    for parent, _, names in os.walk(directory):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Have one file, or the names in one folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(directory: Path, needed_bytes: int, what: str) -> None:
    """Raise StorageError unless the directory's volume has that much free space."""
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise StorageError(
            f"{what} needs {needed_bytes / 1e9:.1f} GB in {directory}. Received: {free_bytes / 1e9:.1f} GB "
            "free. Make room or name another volume."
        )
