"""Files on shared storage: atomic writes, locks between processes, and file system errors in one line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from trainer.errors import StorageError

CHECK_VOLUME = "Check that the volume is mounted, has free space, and that this user may write to it."
"""What to do about most errors of a file system."""

_PARTIAL = ".partial"
# By name, because importing TensorFlow takes seconds and not every command needs it.
_TENSORFLOW_ERRORS = ("NotFoundError", "PermissionDeniedError", "ResourceExhaustedError")


@contextmanager
def explain_errors(what: str, path: Path, advice: str = CHECK_VOLUME) -> Iterator[None]:
    """Turn an error of the file system inside the block into a StorageError."""
    try:
        yield
    except Exception as error:
        reason = _file_system_reason(error)
        if reason is None:
            raise
        raise StorageError(f"{what}: {path}: {reason}. {advice}") from error


def _file_system_reason(error: Exception) -> str | None:
    """Return what the file system reported, to Python or to TensorFlow; None for any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__module__.startswith("tensorflow.") and type(error).__name__ in _TENSORFLOW_ERRORS:
        return str(getattr(error, "message", error))
    return None


def write_atomically(
    path: Path, content: str | Callable[[BinaryIO], object], token: str | None = None
) -> None:
    """Replace a file so that a reader, or a crash, finds either the old content or the new.

    Args:
      content: text, or a function that writes to the open file. When it raises, the old content stays.
      token: names the partial file, so that a second try overwrites what a killed process left. By default
        every call has a partial file of its own: several workers may be writing the same file.
    """
    partial = path.with_name(f".{token or secrets.token_hex(8)}{_PARTIAL}")
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
    """Remove the partial files that killed processes left in a directory."""
    for partial in directory.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):  # it is being renamed
            if time.time() - partial.stat().st_mtime > older_than_s:
                partial.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Lock a file or a directory against other processes while the block runs.

    The kernel frees the lock of a process that dies, so a lock file can stay where it is.

    Args:
      path: a directory, or a file, which is created if necessary. Its content is left alone.
      wait: wait until no other process holds the lock.
    Yields:
      The descriptor that holds the lock. That of a file is open for reading and writing.
    Raises:
      BlockingIOError: `wait` is false, and another process holds the lock.
    """
    # NFS locks only what is open for writing, which a directory cannot be.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flush every file and folder of a tree to the disk."""
    for parent, _, names in os.walk(directory):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Flush one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(directory: Path, needed_bytes: int, what: str) -> None:
    """Raise StorageError unless the directory's volume has enough free space."""
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise StorageError(
            f"{what} needs {needed_bytes / 1e9:.1f} GB in {directory}. Received: {free_bytes / 1e9:.1f} GB "
            "free. Make room or name another volume."
        )
