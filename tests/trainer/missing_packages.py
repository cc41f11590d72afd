"""An environment for child processes in which named packages cannot be imported."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

HEAVY = ("tensorflow", "keras", "tensorflow_serving", "matplotlib")
"""Packages of the extra `train` that a cluster command must not need."""

# Python imports a module of this name at startup.
_SITECUSTOMIZE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def environment_without(directory: Path, packages: Collection[str]) -> dict[str, str]:
    """Return environment variables with which Python cannot import these packages.

    Args:
      directory: gets the file that hides them.
    """
    hooks = directory / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(names=tuple(packages)))
    paths = [str(hooks), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
