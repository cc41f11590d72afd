"""One command of `python -m trainer`, and the arguments that several have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, summary: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Add a command; its arguments are the caller's to add.

    Args:
      summary: one line for the list of commands and for its own --help.
      run: what it does with the parsed arguments; raises TrainerError.
    """
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run, prog=command.prog)
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
