"""What README.md and docs/ show: their Python runs, and the programs take their command lines."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_server import cli as server_cli
from serving_client import cli as client_cli
from tests.conftest import serving
from trainer import cli as trainer_cli
from trainer import run

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {"trainer": trainer_cli, "serving_client": client_cli, "local_server": server_cli}


def python_blocks() -> Iterator[object]:
    for file in FILES:
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", file.read_text(), re.M | re.S)):
            yield pytest.param(block, id=f"{file.name}-{number}")


def command_lines() -> Iterator[object]:
    """Those of our programs, with lines that are continued put together, and without redirections."""
    for file in FILES:
        text = re.sub(r"\\\n\s*", "", file.read_text())
        for line in dict.fromkeys(re.findall(r"^(?:\$ )?python -m (\w+ .*)$", text, re.M)):
            yield pytest.param(re.sub(r"( [<>] .*| &)$", "", line), id=f"{file.name}: {line[:60]}")


@pytest.fixture(scope="module")
def clothing(published: run.Published) -> Iterator[str]:
    """The address of a server with a model of the examples' name."""
    with serving("clothing", published.path.parent) as (address, _):
        yield address


@pytest.mark.parametrize("block", list(python_blocks()))
def test_python_examples_run(block: str, clothing: str, image_tree: Path, tmp_path: Path) -> None:
    pictures = sorted(image_tree.glob("test/*/*.jpg"))
    (tmp_path / "pictures").mkdir()
    for picture, name in zip(
        pictures, ("shirt.jpg", "shoe.png", "pictures/1.jpg", "pictures/2.jpg"), strict=False
    ):
        shutil.copy(picture, tmp_path / name)
    code = block.replace("localhost:8500", clothing)
    assert code != block
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", list(command_lines()))
def test_programs_take_the_command_lines(line: str) -> None:
    program, *arguments = shlex.split(line)
    PARSERS[program]._parser().parse_args(arguments)


def test_links_lead_to_files() -> None:
    for file in FILES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"
