"""Publish versions: everything is written under a name that TensorFlow Serving ignores, then renamed.

MODEL_DIR/NAME/3/             a version: complete, because it came by one rename
MODEL_DIR/NAME/.staging-4/    a version that is being written
MODEL_DIR/NAME/.runs/RUN_ID/  what each run leaves: settings, history, trained weights
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
    """The versions of one model: MODEL_DIR/NAME, which TensorFlow Serving has as its base path."""

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
        """Where each run leaves its files (trainer/runs.py)."""
        return self.path / ".runs"

    def versions(self) -> list[int]:
        """Return the published versions in rising order: what TensorFlow Serving would see."""
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.name.isdecimal())

    def publish(
        self,
        card: ModelCard,
        save: Callable[[Path, str], None],
        finish: Callable[[Path], None] = lambda staging: None,
    ) -> int:
        """Write the next version and make it visible, whole.

        A number is never used twice, even when its version has been removed: clients and servers know a
        version by it.

        Nor does one run publish twice.

        Args:
          save: writes the SavedModel into a directory, with the given card.
          finish: is called when all of that is written; what it raises keeps the version from being seen.
        Returns:
          The number of the version.
        Raises:
          StorageError: the directory cannot take it; nothing is visible then.
        """
        with (
            explain_errors("The model directory cannot take a version", self.path),
            self.locked() as lock,
        ):
            if published := self._version_of(card.run_id):
                return published  # by a process of the same run that was killed before it could say so
            for leftover in self.path.glob(f"{_STAGING}*"):  # of a run that was killed
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
                # Before the rename: once the version is visible, nothing may fail any more.
                os.pwrite(lock, str(version).encode(), 0)
                staging.rename(self.path / str(version))
                storage.sync(self.path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return version

    def _version_of(self, run_id: str) -> int | None:
        """Return the version that this run has published; newest first, because it is the likely one."""
        for version in reversed(self.versions()) if run_id else ():
            card = self.path / str(version) / "assets.extra" / CARD_FILE_NAME
            if card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("run_id") == run_id:
                return version
        return None

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Keep every other publisher out while the block runs.

        Yields:
          The descriptor of the lock's file, which holds the highest number that was ever published.
        """
        with storage.locked(self._lock_file) as descriptor:
            yield descriptor

    @property
    def _lock_file(self) -> Path:
        return self.path / ".publish.lock"
