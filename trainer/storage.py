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

import tensorflow as tf

from trainer.errors import StorageError

_PARTIAL = ".partial"


@contextmanager
def explaining(what: str, path: Path) -> Iterator[None]:
    """Turn a file system's refusal inside the block into a StorageError."""
    try:
        yield
    except (
        OSError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,
    ) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error.message
        raise StorageError(
            f"{what}: {path}: {reason}. Check that the volume is there, has space, and that this user may "
            "write to it."
        ) from error


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
