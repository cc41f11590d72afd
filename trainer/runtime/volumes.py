"""What a volume must be able to do before hours of training rely on it."""

from __future__ import annotations

import fcntl
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from trainer.errors import StorageError
from trainer.runtime import storage


def check_writable(directory: Path) -> None:
    """Make the directory and a file in it; raise StorageError if that cannot be done."""
    with storage.explain_errors("The directory must be writable", directory):
        directory.mkdir(parents=True, exist_ok=True)
        probe = _probe(directory)
        probe.touch()
        probe.unlink()


def check_replaces_and_locks(directory: Path) -> None:
    """Raise StorageError unless a rename replaces a file there, and a lock keeps other processes out."""
    probe = _probe(directory)
    with storage.explain_errors("The directory must be able to replace and lock files", directory):
        try:
            for content in ("old", "new"):
                storage.write_atomically(probe, content)
            if probe.read_text() != "new":
                raise StorageError(
                    f"{directory}: a rename must replace a file, and the old one is still there. Use a local "
                    "disk, NFS 4, CephFS or EFS."
                )
            _check_lock(probe)
        finally:
            probe.unlink(missing_ok=True)


def _probe(directory: Path) -> Path:
    """Return a name that TensorFlow Serving ignores and no other worker takes at the same time."""
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
    """Raise StorageError unless a lock keeps another process out: on some mounts it is granted to all."""
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process, not another descriptor: on NFS a lock belongs to the whole process.
        other = subprocess.run([sys.executable, "-I", "-S", "-c", _TRY_LOCK, path], capture_output=True)
    if other.returncode == 0:
        raise StorageError(
            f"{path.parent}: locks must keep other processes out, and a second process was given one that is "
            "held already. Use a local disk, NFS 4, CephFS or EFS, not an object store mounted as a folder."
        )


def check_space(directory: Path, needed_bytes: int, what: str) -> str:
    """Return how much is free where the directory is, or will be.

    Raises:
      StorageError: less than needed.
    """
    there = _nearest_that_exists(directory)
    with storage.explain_errors("The volume cannot be looked at", there):
        storage.check_space(there, needed_bytes, what)
        free_bytes = shutil.disk_usage(there).free
    return f"{free_bytes / 1e9:.1f} GB free in {directory}"


def _nearest_that_exists(directory: Path) -> Path:
    absolute = directory.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.is_dir())
