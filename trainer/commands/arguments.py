"""One command of `python -m trainer`, and the arguments that several have."""

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
    """Add --overlay, the manifests that were applied, and --namespace, which they may name."""
    command.add_argument(
        "--overlay",
        type=Path,
        default=Path("k8s"),
        metavar="DIR",
        help="manifests, or a kustomization, with the Job (default: k8s)",
    )
    add_namespace(command, "the overlay's, or else the kubeconfig's current")


def add_namespace(command: argparse.ArgumentParser, default: str = "the kubeconfig's current") -> None:
    """Add --namespace, of the cluster."""
    command.add_argument("--namespace", metavar="NS", help=f"of the cluster (default: {default})")
