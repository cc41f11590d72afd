"""The directory of one run, MODEL_DIR/NAME/.runs/RUN_ID/, from which a second start resumes it.

config.json       the resolved settings
identity          hash of the settings and the images; a run resumes only with the same
checkpoint.npz    state of the training
outcome.json      when it has ended: the version, or why there is none
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.data import DECODING, Splits
from trainer.errors import ConfigError, StorageError
from trainer.runtime import storage
from trainer.training.devices import Devices

_LOCK = ".lock"


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = contextlib.ExitStack()

    @property
    def run_id(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def checkpoint(self) -> Path:
        """The file of a `Checkpoint`."""
        return self.path / "checkpoint.npz"

    def write(self, name: str, text: str) -> None:
        """Write one of the run's files atomically."""
        with storage.explain_errors("The run's files cannot be written", self.path):
            storage.write_atomically(self.path / name, text)

    def outcome(self) -> dict[str, Any] | None:
        """Return how the run ended; None: it has not ended."""
        try:
            outcome: dict[str, Any] = json.loads((self.path / "outcome.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return outcome

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Write how the run ended, and remove its state."""
        self.write("outcome.json", json.dumps(outcome, indent=2))
        self.checkpoint.unlink(missing_ok=True)

    def begin(self, config: TrainConfig, identity: str) -> None:
        """Create the directory or resume in it, and keep every other process out until `release`.

        Raises:
          ConfigError: the run was started with other settings or on other images.
          StorageError: another process trains it, or the directory cannot be written.
        """
        with storage.explain_errors("The model directory cannot take the run's files", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.enter_context(storage.locked(self.path / _LOCK, wait=False))
            except BlockingIOError as error:
                raise StorageError(
                    f"Run {self.run_id} is being trained by another process, which holds "
                    f"{self.path}/{_LOCK}. Wait until it ends, or give this one another --run-id."
                ) from error
        try:
            storage.remove_partial(self.path, older_than_s=0)
            if (self.path / "identity").exists():
                self._check_same(config, identity)
            self.write("config.json", config.to_json())
            self.write("identity", identity)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other processes in again."""
        self._lock.close()

    def _check_same(self, config: TrainConfig, identity: str) -> None:
        if (self.path / "identity").read_text(encoding="utf-8") == identity:
            return
        before = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        now = json.loads(config.to_json())
        changed = [
            f"{key} {before.get(key)} → {now[key]}"
            for key in now
            if key in config.identity() and before.get(key) != now[key]
        ]
        raise ConfigError(
            f"--run-id {self.run_id} must resume with the settings and images that it began with. Received: "
            f"{', '.join(changed) or 'other images or another release'}. Give this run another --run-id."
        )


@contextlib.contextmanager
def open_run(runs: Path, config: TrainConfig, splits: Splits, devices: Devices) -> Iterator[RunDirectory]:
    """Begin a run or resume it. All workers agree on its name, and the chief holds its lock in the block.

    Raises:
      ConfigError: the run was started with other settings or on other images.
      StorageError: another process trains it, or the directory cannot be written.
    """
    identity = run_identity(config, splits)
    directory = RunDirectory(runs / devices.chief_text(lambda: choose_run_id(runs, config, identity)))
    if devices.is_chief:
        directory.begin(config, identity)
    try:
        yield directory
    finally:
        directory.release()


def run_identity(config: TrainConfig, splits: Splits) -> str:
    """Return a hash of what decides the result of a run: settings, images, and how they are decoded."""
    images = {split: image_set.fingerprint for split, image_set in splits.items()}
    text = json.dumps([config.identity(), images, DECODING], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def choose_run_id(runs: Path, config: TrainConfig, identity: str) -> str:
    """Return --run-id, or an unfinished run of the same identity that no process trains, or a new name."""
    if config.run_id:
        return config.run_id
    for file in sorted(runs.glob("*/identity"), reverse=True):
        unfinished = not (file.parent / "outcome.json").exists()
        same = unfinished and file.read_text(encoding="utf-8") == identity
        if same:
            with contextlib.suppress(BlockingIOError), storage.locked(file.parent / _LOCK, wait=False):
                return file.parent.name
    started = datetime.datetime.now(datetime.timezone.utc)
    return f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
