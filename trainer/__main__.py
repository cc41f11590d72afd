"""`python -m trainer COMMAND`: parse the arguments, run one command, return its exit code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from trainer.commands import data, jobs, labels, training
from trainer.errors import ConfigError, TrainerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return 0, or the exit code of its error (trainer/errors.py)."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, handlers=[_StderrHandler()])
    try:
        arguments.run(arguments)
    except TrainerError as error:
        print(f"{arguments.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package, _, _ = (error.name or "trainer").partition(".")
        if package == "trainer":  # a bug
            raise
        print(
            f"{arguments.prog}: needs the packages of the extra `{arguments.extra}`. Received: no module "
            f"{package}. Run pip install 'image-classifier-on-kubernetes[{arguments.extra}]'.",
            file=sys.stderr,
        )
        return ConfigError.exit_code
    except KeyboardInterrupt:
        print(f"{arguments.prog}: interrupted.", file=sys.stderr)
        return 130
    return 0


class _StderrHandler(logging.Handler):
    """Writes to the current sys.stderr, which a progress bar replaces to print lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command and its flags."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train an image classifier by transfer learning and publish it for TensorFlow Serving.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    training.add(commands)
    labels.add(commands)
    jobs.add(commands)
    data.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
