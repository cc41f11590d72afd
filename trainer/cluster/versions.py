"""List the published versions of a model, and move the labels that point at them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from trainer.cluster import model_config
from trainer.cluster.config_store import ConfigStore
from trainer.errors import ConfigError

_CARD = "model_card.json"  # the name in trainer/export, which imports TensorFlow


@dataclasses.dataclass(frozen=True)
class Version:
    """A published version.

    Attributes:
      number: the name of its directory.
      created: time of publication, ISO 8601; empty without a readable model card.
      accuracy: on its validation split; None if unknown.
      labels: those that point at it.
    """

    number: int
    created: str
    accuracy: float | None
    labels: tuple[str, ...]


def list_versions(base_path: Path, name: str, store: ConfigStore | None) -> list[Version]:
    """Return the published versions, newest first.

    Args:
      base_path: MODEL_DIR/NAME.
      store: holds the labels; without it the versions have none.
    Raises:
      ConfigError: there is no such directory, or the model config does not name the model.
      ClusterError: the cluster that holds the labels does not answer.
    """
    labels = model_config.labels(store.read(), name, store) if store else {}
    try:
        numbers = sorted((int(one.name) for one in base_path.iterdir() if one.name.isdecimal()), reverse=True)
    except OSError as error:
        raise ConfigError(
            f"MODEL_DIR/NAME must be a directory of versions. Received: {base_path}: {error.strerror}. Check "
            "--model-dir and --name."
        ) from error
    return [_version(base_path / str(number), labels) for number in numbers]


def _version(path: Path, labels: dict[str, int]) -> Version:
    number = int(path.name)
    pointing = tuple(sorted(label for label, version in labels.items() if version == number))
    try:
        card = json.loads((path / "assets.extra" / _CARD).read_text(encoding="utf-8"))
        accuracy = card["metrics"].get("validation", {}).get("accuracy")
        return Version(number, str(card["created"]), accuracy, pointing)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Version(number, "", None, pointing)  # the server loads it without a model card, too


def print_versions(versions: list[Version], name: str) -> None:
    """Print them as a table."""
    from rich.console import Console  # for the table only: promote and rollback don't need it
    from rich.table import Table

    table = Table("version", "published", "validation accuracy", "labels", title=name)
    for one in versions:
        accuracy = "" if one.accuracy is None else f"{one.accuracy:.4f}"
        table.add_row(str(one.number), one.created, accuracy, ", ".join(one.labels))
    Console(file=sys.stdout).print(table)


def promote(store: ConfigStore, name: str, label: str, version: int, base_path: Path | None) -> None:
    """Point a label at a version.

    Args:
      base_path: MODEL_DIR/NAME, which must hold the version; None skips this check.
    Raises:
      ConfigError: there is no such version, or the model config does not keep it loaded.
      ClusterError, StorageError: the model config cannot be written.
    """
    if base_path is not None and not (base_path / str(version) / "saved_model.pb").is_file():
        raise ConfigError(
            f"VERSION must be a published version. Received: {version}. {base_path} holds "
            f"{', '.join(str(one.number) for one in list_versions(base_path, name, None)) or 'no versions'}."
        )
    store.edit(lambda text: model_config.promote(text, name, label, version, store))


def roll_back(store: ConfigStore, name: str, label: str) -> int:
    """Point a label at its former version again; return that version.

    Raises:
      ConfigError: the label never moved.
      ClusterError, StorageError: the model config cannot be written.
    """
    restored = 0

    def change(text: str) -> str:
        nonlocal restored
        changed, restored = model_config.roll_back(text, name, label, store)
        return changed

    store.edit(change)
    return restored
