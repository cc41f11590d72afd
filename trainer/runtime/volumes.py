"""Checks of a volume, before hours of training rely on it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from trainer.errors import StorageError
from trainer.runtime import storage


def check_writable(
    directory: Path, what: str = "The directory must be writable", advice: str = storage.CHECK_VOLUME
) -> None:
    """Create the directory, and create and remove a file in it.

    Args:
      what, advice: how the error begins and ends.
    Raises:
      StorageError: one of these cannot be done.
    """
    with storage.explain_errors(what, directory, advice):
        directory.mkdir(parents=True, exist_ok=True)
        probe = _probe(directory)
        probe.touch()
        probe.unlink()


def check_renames_folders(directory: Path) -> None:
    """Raise StorageError unless a folder in the directory can be renamed."""
    with storage.explain_errors("The directory must be able to rename folders", directory):
        folder = _probe(directory)
        folder.mkdir()
        try:
            folder = folder.rename(_probe(directory))
        finally:
            folder.rmdir()


def check_replaces_and_locks(directory: Path) -> None:
    """Raise StorageError unless a rename replaces a file there, and a lock keeps other processes out."""
    probe = _probe(directory)
    with storage.explain_errors("The directory must be able to replace and lock files", directory):
        try:
            for content in ("old", "new"):
                storage.write_atomically(probe, content)
            if probe.read_text() != "new":
                raise StorageError(
                    f"{directory}: a rename must replace a file. Received: the old content after the rename. "
                    "Use a local disk, NFS 4, CephFS or EFS."
                )
            _check_lock(probe)
        finally:
            probe.unlink(missing_ok=True)


def _probe(directory: Path) -> Path:
    """Return a name that TensorFlow Serving ignores and that no other worker chooses at the same time."""
    # Not the process id: in every pod the trainer is process 1.
    return directory / f".probe-{secrets.token_hex(4)}"


_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1]) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(1)
"""


def _check_lock(path: Path) -> None:
    """Raise StorageError unless a lock keeps another process out: some mounts grant it to every process."""
    with storage.locked(path, wait=False):
        # Another process, not another descriptor: on NFS a lock belongs to the whole process.
        other = subprocess.run([sys.executable, "-I", "-S", "-c", _TRY_LOCK, path], capture_output=True)
    if other.returncode == 0:
        raise StorageError(
            f"{path.parent}: locks must keep other processes out. Received: a second process got the same "
            "lock. Use a local disk, NFS 4, CephFS or EFS, not an object store mounted as a folder."
        )


def check_space(directory: Path, needed_bytes: int, what: str) -> str:
    """Return how much space is free where the directory is, or will be.

    Raises:
      StorageError: less than needed.
    """
    existing = _nearest_that_exists(directory)
    with storage.explain_errors("The free space of the volume cannot be read", existing):
        storage.check_space(existing, needed_bytes, what)
        free_bytes = shutil.disk_usage(existing).free
    return f"{free_bytes / 1e9:.1f} GB free in {directory}"


def _nearest_that_exists(directory: Path) -> Path:
    absolute = directory.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.is_dir())
