"""What README.md and docs/ show: their Python runs, and the programs take their command lines."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from local_server import cli as server_cli
from serving_client import cli as client_cli
from tests.conftest import serving
from trainer import __main__ as cli
from trainer import run

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
PARSERS = {"trainer": cli, "serving_client": client_cli, "local_server": server_cli}


def python_blocks() -> Iterator[object]:
    for file in FILES:
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", file.read_text(), re.M | re.S)):
            yield pytest.param(block, id=f"{file.name}-{number}")


def shown(pattern: str) -> list[tuple[Path, str]]:
    """Return what matches at the beginning of a line, after a prompt, or in backticks, once for each file."""
    found = []
    for file in FILES:
        text = re.sub(r"\\\n\s*", "", file.read_text())  # lines that are continued
        lines = [*re.findall(r"^\s*(?:\$ )?(.*)$", text, re.M), *re.findall(r"`([^`\n]+)`", text)]
        found += [(file, line) for line in dict.fromkeys(lines) if re.match(pattern, line)]
    return found


def command_lines() -> Iterator[object]:
    """Those of our programs, without redirections; not those that only name a command."""
    for file, line in shown(r"python -m (trainer|serving_client|local_server) (?!COMMAND)[\w-]+ "):
        yield pytest.param(re.sub(r"^python -m |( [<>] .*| &)$", "", line), id=f"{file.name}: {line[10:60]}")


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
    PARSERS[program].build_parser().parse_args(arguments)


def test_links_lead_to_files() -> None:
    for file in FILES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_what_the_ways_through_the_code_name_is_there() -> None:
    """Each `file.py` `name` of docs/architecture.md; a file without a folder is the client's."""
    pairs = re.findall(r"`([\w/]+\.py)`\s`([\w.]+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(pairs) > 25
    for file, name in pairs:
        path = ROOT / file if "/" in file else ROOT / "serving_client" / file
        *_, last = name.split(".")
        assert re.search(rf"^ *(async )?(def|class) {last}\b", path.read_text(), re.M), f"{file} {name}"


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for _, line in shown(r"make [a-z]")}
    assert named <= targets
    assert {line.split()[1] for _, line in shown("make test")} == {"test"}


def test_every_flag_that_is_named_is_one_of_ours() -> None:
    flags = {"--build-arg", "--help", "--selector"}  # docker's, everybody's, kubectl's
    for parser in (module.build_parser() for module in PARSERS.values()):
        flags |= set(re.findall(r"--[a-z][\w-]*", helps(parser)))
    for file, line in shown("--"):
        named = re.findall(r"--[a-z][\w-]*", line)
        assert set(named) <= flags, f"{file.name}: {line}"


def helps(parser: argparse.ArgumentParser) -> str:
    """Return its help and that of its commands."""
    texts = [parser.format_help()]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts += [command.format_help() for command in action.choices.values()]
    return "\n".join(texts)


@pytest.mark.parametrize("module", PARSERS.values(), ids=PARSERS)
def test_every_argument_has_its_help(module: ModuleType) -> None:
    parsers = [module.build_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
                assert all(choice.help for choice in action._choices_actions)
            else:
                assert action.help, f"{parser.prog} {action.dest}"


def test_extras_and_dockerfiles_are_there() -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    for _, line in shown("pip install '"):
        (extra,) = re.findall(r"\[(\w+)\]", line)
        assert extra in extras
    for _, line in shown("docker build"):
        assert (ROOT / line.split()[3]).is_file()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_has_the_commands_and_the_manifests_what_they_name() -> None:
    manifests = "".join(file.read_text() for file in (ROOT / "k8s").glob("*.yaml"))
    for _, line in shown(r"kubectl [a-z]"):
        command, *words = shlex.split(line.partition(" -- ")[0])[1:]
        help_text = subprocess.run(
            ["kubectl", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for flag in (word.partition("=")[0] for word in words if word.startswith("-") and word != "-"):
            short = re.search(rf"^    {flag}, --", help_text, re.M)
            assert short or flag == "--namespace" or f"{flag}=" in help_text, line
        for kind, name in re.findall(r"(deployment|service)/([\w-]+)", line):
            assert re.search(rf"kind: {kind.title()}\nmetadata:\n  name: {name}\n", manifests), line
        for name in re.findall(r" -c (\S+)", line):
            assert f"- name: {name}\n" in manifests, line
        for key, value in re.findall(r"([\w./]+)=([\w-]+)", line):
            assert f"{key}: {value}\n" in manifests, line


def test_the_workflow_calls_the_pieces_of_the_gate_and_nothing_else() -> None:
    gate = set(re.findall(r"^ *make ([a-z]+)", (ROOT / ".ci" / "run").read_text(), re.M))
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    pieces = jobs["pieces"]["strategy"]["matrix"]["piece"]
    assert {"test", *pieces} == gate - {"measured"}  # which needs photographs that are not here
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert steps == ["make test", "make ${{ matrix.piece }}"]
