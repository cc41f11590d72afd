"""Remove old versions, but none that TensorFlow Serving's configuration names."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from trainer.cluster import model_config
from trainer.cluster.config_store import ConfigFile
from trainer.export.publishing import ModelDirectory
from trainer.runtime import storage
from trainer.runtime.storage import explain_errors

_REMOVED = ".removed-"


def remove_old_versions(directory: ModelDirectory, keep: int, protected: Collection[int]) -> list[int]:
    """Remove all but the newest versions, oldest first.

    Each is first renamed to a name that TensorFlow Serving ignores, so that nobody sees half a version,
    whenever this process ends. What a removal that was killed has left is removed by the next one.

    Args:
      keep: how many of the newest versions stay, protected ones among them or not.
      protected: versions that stay, however old.
    Returns:
      The versions that were removed.
    Raises:
      StorageError: the directory does not let go of them.
    """
    removed = []
    with explain_errors("The old versions cannot be removed", directory.path), directory.locked():
        for leftover in directory.path.glob(f"{_REMOVED}*"):
            shutil.rmtree(leftover)
        versions = directory.versions()
        for version in versions[: max(0, len(versions) - keep)]:
            if version in protected:
                continue
            gone = directory.path / f"{_REMOVED}{version}"
            (directory.path / str(version)).rename(gone)
            storage.sync(directory.path)  # the rename reaches the disk before any of the deletions
            shutil.rmtree(gone)
            removed.append(version)
    return removed


def protected_versions(config_file: Path, name: str) -> set[int]:
    """Return the versions of a model that a model config file names, by a label or in its policy.

    Raises:
      ConfigError: the file cannot be read or is no such configuration.
    """
    return model_config.protected_versions(ConfigFile(config_file).read(), name, config_file)
