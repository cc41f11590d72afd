"""Where the model config is stored: in a file, or in a ConfigMap (config_map.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trainer.errors import ConfigError
from trainer.runtime import storage


class ConfigStore(Protocol):
    """One model config. `str()` names the file or ConfigMap."""

    def read(self) -> str:
        """Return its text."""

    def edit(self, change: Callable[[str], str]) -> None:
        """Replace its text with what `change` returns for it. Simultaneous edits take turns."""


class ConfigFile:
    """The file that `tensorflow_model_server --model_config_file` names."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> str:
        """Return its text.

        Raises:
          ConfigError: it cannot be read.
        """
        try:
            return self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                "--model-config must be TensorFlow Serving's model config file. "
                f"Received: {self._path}: {reason}. Give the file of --model_config_file."
            ) from error

    def edit(self, change: Callable[[str], str]) -> None:
        """Replace its text atomically.

        Raises:
          ConfigError: it cannot be read.
          StorageError: it cannot be written.
        """
        self.read()
        with storage.explain_errors("The model config file cannot be written", self._path):
            path = self._path.resolve()
            # A lock on the file would not hold: the write replaces the file.
            with storage.locked(path.parent):
                storage.write_atomically(path, change(self.read()))
