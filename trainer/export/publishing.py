"""Publish versions: write each under a name that TensorFlow Serving ignores, then rename it.

MODEL_DIR/NAME/3/             a version, complete because one rename made it visible
MODEL_DIR/NAME/.staging-4/    a version that is being written
MODEL_DIR/NAME/.runs/RUN_ID/  the files of a run: settings, history, trained weights
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.export.model_card import CARD_FILE_NAME, ModelCard
from trainer.runtime import storage, volumes
from trainer.runtime.storage import explain_errors

_STAGING = ".staging-"


class ModelDirectory:
    """The versions of one model in MODEL_DIR/NAME, which is its base path in TensorFlow Serving."""

    def __init__(self, model_dir: Path, name: str) -> None:
        self.path = model_dir / name

    def prepare(self) -> None:
        """Create the directory and try that a version can be locked, written and renamed in it.

        Called before the training, so that hours of it are not lost to a read-only volume.

        Raises:
          StorageError: it cannot.
        """
        volumes.check_writable(self.path, "The model directory is not writable")
        volumes.check_renames_folders(self.path)
        with (
            explain_errors("The model directory cannot be locked", self.path),
            contextlib.suppress(BlockingIOError),  # another run is publishing: locks work
            storage.locked(self._lock_file, wait=False),
        ):
            pass

    @property
    def runs(self) -> Path:
        """The directory of all runs' files (`RunDirectory`)."""
        return self.path / ".runs"

    def versions(self) -> list[int]:
        """Return the published versions in ascending order, as TensorFlow Serving sees them."""
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.name.isdecimal())

    def publish(
        self,
        card: ModelCard,
        save: Callable[[Path, str], None],
        finish: Callable[[Path], None] = lambda staging: None,
    ) -> int:
        """Write the next version and make it visible once it is complete.

        Clients and servers know a version by its number, so a number is never used again, even after its
        version is removed. A run publishes once: a second call returns the number of its version.

        Args:
          save: writes the SavedModel into a directory; receives the directory and the card's JSON.
          finish: called with the directory after SavedModel and card are written. If it raises, nothing is
            published.
        Returns:
          The number of the version.
        Raises:
          StorageError: the directory cannot be written. Nothing is published then.
        """
        with (
            explain_errors("The model directory cannot take a version", self.path),
            self.locked() as lock,
        ):
            if published := self._version_of(card.run_id):
                return published  # the run's process was killed after it published
            for leftover in self.path.glob(f"{_STAGING}*"):  # of a process that was killed
                shutil.rmtree(leftover)
            version = max(self.versions(), default=0)
            version = max(version, int(os.pread(lock, 20, 0) or 0)) + 1
            staging = self.path / f"{_STAGING}{version}"
            try:
                text = card.to_json(version)
                save(staging, text)
                extra = staging / "assets.extra"
                extra.mkdir(exist_ok=True)
                (extra / CARD_FILE_NAME).write_text(text, encoding="utf-8")
                finish(staging)
                storage.sync_tree(staging)
                # Before the rename, because nothing may fail once the version is visible.
                os.pwrite(lock, str(version).encode(), 0)
                staging.rename(self.path / str(version))
                storage.sync(self.path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return version

    def _version_of(self, run_id: str) -> int | None:
        """Return the version that this run published. Newest first, because that is the likely one."""
        for version in reversed(self.versions()) if run_id else ():
            card = self.path / str(version) / "assets.extra" / CARD_FILE_NAME
            if card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("run_id") == run_id:
                return version
        return None

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Block every other publisher while the `with` block runs.

        Yields:
          The descriptor of the lock's file, which holds the highest number that was ever published.
        """
        with storage.locked(self._lock_file) as descriptor:
            yield descriptor

    @property
    def _lock_file(self) -> Path:
        return self.path / ".publish.lock"
