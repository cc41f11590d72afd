"""The state of a training in one file, from which it resumes to the same bits."""

from __future__ import annotations

import dataclasses
import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.runtime import storage

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state between two steps.

    Attributes:
      position: phase, epoch, step, sums of the epoch and history, as JSON takes them.
      variables: values of the trained variables and of their random state.
      optimizer: values of the optimizer's variables.
      best: values of the trained variables in the best epoch so far.
    """

    position: dict[str, Any]
    variables: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    best: Sequence[np.ndarray]

    def save(self, path: Path) -> None:
        """Write the file atomically: a failure leaves the previous one.

        Raises:
          StorageError: the volume is full or read-only.
        """
        arrays = {
            f"{group}-{index:04}": array
            for group in ("variables", "optimizer", "best")
            for index, array in enumerate(getattr(self, group))
        }
        arrays["position"] = np.array(json.dumps(self.position))
        with storage.explain_errors("The run's state cannot be saved", path):
            storage.write_atomically(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Read the file; None if there is none, or if it is damaged."""
        try:
            # A zip archive: each array has its CRC-32.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                names = sorted(file.files)
                groups = {
                    group: [file[name] for name in names if name.startswith(f"{group}-")]
                    for group in ("variables", "optimizer", "best")
                }
                return cls(position=json.loads(str(file["position"])), **groups)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("%s cannot be read (%s); training starts from the beginning", path, error)
            return None
