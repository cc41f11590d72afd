"""Add a command to `python -m trainer`, and the arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


Extra: TypeAlias = Literal["train", "cluster", "fetch"]
"""An extra of pyproject.toml."""


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    extra: Extra = "train",
) -> argparse.ArgumentParser:
    """Add a command. The caller adds its arguments.

    Args:
      summary: one line for the list of commands and for its own --help.
      run: called with the parsed arguments; raises TrainerError.
      extra: holds the packages that `run` imports; the error about a missing package names it.
    """
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run, prog=command.prog, extra=extra)
    return command


def add_overlay(command: argparse.ArgumentParser) -> None:
    """Add --overlay, the manifests with the training Job, and --namespace, which they may set."""
    command.add_argument(
        "--overlay",
        type=Path,
        default=Path("k8s"),
        metavar="DIR",
        help="folder with the manifest of the training Job, or with a kustomization (default: k8s)",
    )
    add_namespace(command, "the overlay's, then the kubeconfig's")


def add_namespace(command: argparse.ArgumentParser, default: str = "the kubeconfig's") -> None:
    """Add --namespace."""
    command.add_argument("--namespace", metavar="NS", help=f"namespace of the cluster (default: {default})")
