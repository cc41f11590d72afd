"""One command of `python -m trainer`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
