"""Remove old versions, but none that TensorFlow Serving's configuration names."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from trainer import storage
from trainer.errors import ConfigError
from trainer.publishing import ModelDirectory
from trainer.storage import explaining

_REMOVED = ".removed-"


def remove_old(directory: ModelDirectory, keep: int, protected: Collection[int]) -> list[int]:
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
    with explaining("The old versions cannot be removed", directory.path), directory.locked():
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


def protected_versions(model_config: Path, name: str) -> set[int]:
    """Return the versions of a model that TensorFlow Serving is told of by number.

    Args:
      model_config: what `tensorflow_model_server --model_config_file` takes.
      name: of the model; a file that does not know it protects nothing.
    Returns:
      The versions in `version_labels` and in `model_version_policy { specific { … } }`.
    Raises:
      ConfigError: the file cannot be read or is no such configuration.
    Source: tensorflow_serving/config/model_server_config.proto, file_system_storage_path_source.proto.
    """
    try:
        config = text_format.Parse(model_config.read_text(encoding="utf-8"), ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError(
            f"--model-config must be TensorFlow Serving's model config file, a ModelServerConfig as text. "
            f"Received: {model_config}: {reason}. Give the file of --model_config_file."
        ) from error
    return {
        version
        for model in config.model_config_list.config
        if model.name == name
        for version in (*model.version_labels.values(), *model.model_version_policy.specific.versions)
    }
