"""What the benchmarks share: flags, processes of their own, tables, the JSON file and the limits."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
INPUTS = {
    "data": "image folders: DIR/train/CLASS/* and DIR/validation/CLASS/*",
    "weights": "Xception's ImageNet weights without its top, a .weights.h5 file",
}
_PACKAGES = ("grpcio", "keras", "numpy", "pillow", "tensorflow")

Limits = Mapping[str, tuple[Literal["<=", ">="], float]]
"""By the key of a figure: on which side of which value it must lie."""


def parse_arguments(
    description: str | None,
    argv: Sequence[str] | None,
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> argparse.Namespace:
    """Read a benchmark's command line: --json, --quick, and those of INPUTS that it takes.

    Wrong arguments end the process with code 2 before anything is measured.

    Returns:
      `json` and each input as an absolute path, or None; with `quick`, every input is None.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in (*required, *optional):
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=INPUTS[name])
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run in seconds, on tiny generated images and a tiny random backbone; inputs are ignored and "
        "limits are not checked",
    )
    arguments = parser.parse_args(argv)
    for name in (*required, *optional):
        path = None if arguments.quick else getattr(arguments, name)
        if path is None and name in required and not arguments.quick:
            parser.error(f"--{name} must be given, unless --quick is. Try --{name} PATH.")
        if path is not None and not path.exists():
            parser.error(f"--{name} must name a file or folder that exists. Received: {path}.")
        setattr(arguments, name, path and path.resolve())
    if arguments.json and not os.access(arguments.json.parent, os.W_OK):
        parser.error(f"--json must name a file in a writable folder. Received: {arguments.json}.")
    return arguments


def call_in_new_process(module: str, function: str, *arguments: str) -> Any:
    """Call benchmarks.MODULE.FUNCTION with text arguments in a new process.

    Its imports and its memory are then its own. What it logs goes to stderr.

    Returns:
      Its return value, by way of JSON.
    Raises:
      subprocess.CalledProcessError: it failed.
    """
    code = (
        "import contextlib, json, sys\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        f"    from benchmarks.{module} import {function}\n"
        f"    returned = {function}(*sys.argv[1:])\n"
        "print(json.dumps(returned))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
    )
    return json.loads(ended.stdout)


def run_trainer(*arguments: object, **options: Any) -> None:
    """Run `python -m trainer` in a new process, its results hidden and its log on stderr."""
    argv = [sys.executable, "-m", "trainer", *map(str, arguments)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, **options)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of aligned columns: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for first, *others in (heads, *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("   ".join([first.ljust(widths[0]), *cells]))
    print()


def finish(figures: Mapping[str, Any], limits: Limits, arguments: argparse.Namespace) -> int:
    """Write the JSON file, check the limits and return the exit code: 1 if a limit is missed."""
    machine = environment()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if arguments.json:
        content = {**figures, "quick": arguments.quick, "environment": machine}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    if arguments.quick:
        print("limits are not checked: with --quick the figures mean nothing")
        return 0
    return 0 if check_limits(figures, limits) else 1


def check_limits(figures: Mapping[str, float], limits: Limits) -> bool:
    """Print a line for each limit; return whether all hold."""
    held = []
    for key, (sign, limit) in limits.items():
        held.append(figures[key] <= limit if sign == "<=" else figures[key] >= limit)
        print(f"{key:<36} {figures[key]:>10.3f}   {sign} {limit:<5g} {'ok' if held[-1] else 'MISSED'}")
    return all(held)


def environment() -> dict[str, str]:
    """Return what the figures depend on: the machine, the versions and the date."""
    return {
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
