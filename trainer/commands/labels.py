"""`versions`, `promote` and `rollback`: published versions and the labels that point at them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from trainer.cluster.config_store import ConfigFile, ConfigStore
from trainer.commands.arguments import Commands, add_command
from trainer.config import TrainConfig

_LABEL = "stable"


def add(commands: Commands) -> None:
    """Add the three commands."""
    listing = add_command(
        commands, "versions", "list the published versions and their labels", _run_versions, extra="cluster"
    )
    _add_model(listing, model_dir_required=True)
    _add_store(listing, required=False)
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")

    promoting = add_command(
        commands,
        "promote",
        "point a label at a version; running servers pick it up",
        _run_promote,
        extra="cluster",
    )
    promoting.add_argument("version", type=int, metavar="VERSION", help="number of a published version")
    _add_label(promoting)
    _add_model(promoting, model_dir_required=False)
    _add_store(promoting, required=True)

    back = add_command(
        commands,
        "rollback",
        "point a label at its former version; running servers pick it up",
        _run_rollback,
        extra="cluster",
    )
    _add_label(back)
    _add_model(back, model_dir_required=False)
    _add_store(back, required=True)


def _add_label(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--label", default=_LABEL, help=f"stable, canary, or any other name (default: {_LABEL})"
    )


def _add_model(command: argparse.ArgumentParser, model_dir_required: bool) -> None:
    command.add_argument(
        "--name", default=TrainConfig.name, help=f"name of the model (default: {TrainConfig.name})"
    )
    why = "" if model_dir_required else "; given: checks that it holds the version"
    command.add_argument(
        "--model-dir",
        type=Path,
        required=model_dir_required,
        metavar="DIR",
        help=f"folder with the versions MODEL_DIR/NAME/1, 2, ...{why}",
    )


def _add_store(command: argparse.ArgumentParser, required: bool) -> None:
    where = command.add_mutually_exclusive_group(required=required)
    where.add_argument(
        "--model-config", type=Path, metavar="FILE", help="TensorFlow Serving's model config file"
    )
    where.add_argument(
        "--namespace", metavar="NS", help="namespace of the cluster whose ConfigMap holds the model config"
    )


def _store(arguments: argparse.Namespace) -> ConfigStore | None:
    if arguments.namespace is not None:
        # The Kubernetes client takes a second to import.
        from trainer.cluster.config_map import ConfigMapStore

        return ConfigMapStore(arguments.namespace)
    return ConfigFile(arguments.model_config) if arguments.model_config else None


def _base_path(arguments: argparse.Namespace) -> Path | None:
    return arguments.model_dir / arguments.name if arguments.model_dir else None


def _run_versions(arguments: argparse.Namespace) -> None:
    from trainer.cluster import versions

    found = versions.list_versions(arguments.model_dir / arguments.name, arguments.name, _store(arguments))
    if arguments.json:
        for one in found:
            print(json.dumps(dataclasses.asdict(one)))
    else:
        versions.print_versions(found, arguments.name)


def _run_promote(arguments: argparse.Namespace) -> None:
    from trainer.cluster import versions

    store = _store(arguments)
    assert store is not None  # one of the two flags is required
    versions.promote(store, arguments.name, arguments.label, arguments.version, _base_path(arguments))
    print(f"{arguments.label} of {arguments.name} is version {arguments.version} in {store}")


def _run_rollback(arguments: argparse.Namespace) -> None:
    from trainer.cluster import versions

    store = _store(arguments)
    assert store is not None  # one of the two flags is required
    version = versions.roll_back(store, arguments.name, arguments.label)
    print(f"{arguments.label} of {arguments.name} is version {version} again in {store}")
