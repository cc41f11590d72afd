"""Remove old versions, except those that TensorFlow Serving's configuration names."""

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

    Each version is first renamed to a name that TensorFlow Serving ignores, so that no server sees a
    partly removed version, even if this process is killed. The next call removes what a killed one left.

    Args:
      keep: number of newest versions to keep, whether they are protected or not.
      protected: older versions to keep as well.
    Returns:
      The removed versions.
    Raises:
      StorageError: a version cannot be removed.
    """
    removed = []
    with explain_errors("The old versions cannot be removed", directory.path), directory.locked():
        for leftover in directory.path.glob(f"{_REMOVED}*"):
            shutil.rmtree(leftover)
        versions = directory.versions()
        for version in versions[: max(0, len(versions) - keep)]:
            if version in protected:
                continue
            removing = directory.path / f"{_REMOVED}{version}"
            (directory.path / str(version)).rename(removing)
            storage.sync(directory.path)  # the rename must be on disk before the first deletion
            shutil.rmtree(removing)
            removed.append(version)
    return removed


def protected_versions(config_file: Path, name: str) -> set[int]:
    """Return the versions of a model that a model config file names, by a label or in its policy.

    Raises:
      ConfigError: the file cannot be read, or is not a model config file.
    """
    return model_config.protected_versions(ConfigFile(config_file).read(), name, config_file)
