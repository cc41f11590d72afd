"""Publish versions: everything is written under a name that TensorFlow Serving ignores, then renamed.

MODEL_DIR/NAME/3/             a version: complete, because it came by one rename
MODEL_DIR/NAME/.staging-4/    a version that is being written
MODEL_DIR/NAME/.runs/RUN_ID/  what each run leaves: settings, history, trained weights
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from trainer import model_card
from trainer.errors import PublishError
from trainer.model_card import ModelCard

_STAGING = ".staging-"


class ModelDirectory:
    """The versions of one model: MODEL_DIR/NAME, which TensorFlow Serving has as its base path."""

    def __init__(self, model_dir: Path, name: str) -> None:
        self.path = model_dir / name

    def prepare(self) -> None:
        """Create the directory and try that a version can be written and renamed in it.

        Called before the training, so that hours of it are not lost to a read-only volume.

        Raises:
          PublishError: it cannot.
        """
        probe, renamed = (self.path / f".probe-{os.getpid()}{suffix}" for suffix in ("", "-renamed"))
        with self._explaining("is not writable"):
            self.path.mkdir(parents=True, exist_ok=True)
            probe.mkdir()
            probe.rename(renamed)
            renamed.rmdir()

    def run_directory(self, run_id: str) -> Path:
        """Create the directory for what a run leaves beside its version."""
        directory = self.path / ".runs" / run_id
        with self._explaining("cannot take the run's files"):
            directory.mkdir(parents=True)
        return directory

    def versions(self) -> list[int]:
        """Return the published versions in rising order: what TensorFlow Serving would see."""
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.name.isdecimal())

    def publish(self, card: ModelCard, save: Callable[[Path, str], None]) -> int:
        """Write the next version and make it visible, whole.

        Args:
          save: writes the SavedModel into a directory, with the given card.
        Returns:
          The number of the version.
        Raises:
          PublishError: the directory cannot take it; nothing is visible then.
        """
        with self._explaining("cannot take a version"), self._locked():
            for leftover in self.path.glob(f"{_STAGING}*"):  # of a run that was killed
                shutil.rmtree(leftover)
            version = max(self.versions(), default=0) + 1
            staging = self.path / f"{_STAGING}{version}"
            try:
                text = card.to_json(version)
                save(staging, text)
                extra = staging / "assets.extra"
                extra.mkdir(exist_ok=True)
                (extra / model_card.FILE_NAME).write_text(text, encoding="utf-8")
                _sync_tree(staging)
                staging.rename(self.path / str(version))
                _sync(self.path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return version

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one publisher in at a time; the kernel frees the lock of a process that dies."""
        with (self.path / ".publish.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            raise PublishError(
                f"The model directory {what}: {self.path}: {reason}. "
                "Check that --model-dir exists with space, and that this user may write there."
            ) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a crash, finds either the old text or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.replace(path)


def _sync_tree(directory: Path) -> None:
    """Have every file and folder reach the disk before the rename does."""
    for parent, _, names in os.walk(directory):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
