"""The documentation agrees with the code: its examples run, and everything that it names exists."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from local_server import flags as server_flags
from serving_client import cli as client_cli
from tests.conftest import serving
from trainer import __main__ as trainer_cli
from trainer import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CHANGELOG = ROOT / "CHANGELOG.md"
FILES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
CURRENT = [file for file in FILES if file != CHANGELOG]  # the changelog also has names of earlier releases
PARSERS = {"trainer": trainer_cli, "serving_client": client_cli, "local_server": server_flags}


def python_blocks() -> Iterator[object]:
    for file in FILES:
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", file.read_text(), re.M | re.S)):
            yield pytest.param(block, id=f"{file.name}-{number}")


def shown(pattern: str) -> list[tuple[Path, str]]:
    """Return what matches at the start of a line, after a prompt, or in backticks, once per file."""
    found = []
    for file in CURRENT:
        text = re.sub(r"\\\n\s*", "", file.read_text())  # lines that are continued
        lines = [*re.findall(r"^\s*(?:\$ )?(.*)$", text, re.M), *re.findall(r"`([^`\n]+)`", text)]
        found += [(file, line) for line in dict.fromkeys(lines) if re.match(pattern, line)]
    return found


def command_lines() -> Iterator[object]:
    """Yield the command lines of the three programs, without redirections."""
    for file, line in shown(r"python -m (trainer|serving_client|local_server) (?!COMMAND)[\w-]+ (?!--help)"):
        yield pytest.param(re.sub(r"^python -m |( [<>] .*| &)$", "", line), id=f"{file.name}: {line[10:60]}")


@pytest.fixture(scope="module")
def clothing(published: run.Published) -> Iterator[str]:
    """The address of a server with the model that the examples name."""
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


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_links_lead_to_files_and_headings(file: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", file.read_text()):
        target = file.parent / link if link else file
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", target.read_text(), re.M)), f"{link}#{anchor}"


def test_the_readme_has_fewer_than_150_lines() -> None:
    assert len(README.splitlines()) < 150


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.split(f"## {title}\n")[1], flags=re.M)[0]


@pytest.mark.parametrize(
    "title",
    [
        "One picture, from its file to a version",
        "One picture, from its file to a probability",
        "One setting, from its flag to its use",
        "One call to a label",
    ],
)
def test_each_walk_through_the_code_names_what_exists_in_at_most_12_files(title: str) -> None:
    text = section(ARCHITECTURE, title)
    assert len(set(re.findall(r"`([\w/]+\.py)`", text))) <= 12
    pairs = re.findall(r"`([\w/]+\.py)`\s`([\w.]+)`", text)
    assert len(pairs) >= 5
    for file, name in pairs:
        *_, last = name.split(".")
        assert re.search(rf"^ *(async )?(def|class) {last}\b", (ROOT / file).read_text(), re.M), (
            f"{file} {name}"
        )


FOLDERS = "trainer|serving_client|local_server|k8s|components|overlays|tests|docs|examples|benchmarks"


@pytest.mark.parametrize("file", CURRENT, ids=lambda file: file.name)
def test_every_path_that_is_named_exists(file: Path) -> None:
    text = re.sub(r"\[[^]]*\]\([^)]*\)", "", file.read_text())  # links have a test of their own
    for path in re.findall(rf"(?:(?<=\.\./)|(?<![\w./$-]))((?:{FOLDERS})/[\w./-]*)", text):
        assert (ROOT / path.rstrip(".")).exists(), path


@pytest.mark.parametrize("file", CURRENT, ids=lambda file: file.name)
def test_every_module_and_name_in_it_exists(file: Path) -> None:
    text = file.read_text()
    names = {Path(name).name for name in tracked_files()}
    for module in re.findall(r"`(\w+\.(?:py|proto|sh)|Dockerfile\.\w+)`", text):
        assert module in names, module
    for first, second, path in re.findall(r"`(\w+)`(?: and `(\w+)`)? in `([\w/]+\.py)`", text):
        for name in filter(None, (first, second)):
            definition = rf"^( *(async )?(def|class) )?{name}\b"
            assert re.search(definition, (ROOT / path).read_text(), re.M), f"{name} in {path}"


@cache
def tracked_files() -> list[str]:
    """Return the paths under version control."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is not a git checkout")
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


OLD_NAMES = (
    *(r"prefix.?cache", r"inner.?sizes?\b", r"inner (layer|Dense)", r"side.by.side", r"NotProved"),
    *(r"\bproofs?\b", r"\bprove[ds]?\b", r"\bdealt?\b", r"bad.?images?\b", r"\busable\b", r"\bobserving\b"),
    *(r"quiet_import", r"allow.url.host", r"overlays/[\w-]+/component", r"taken for", r"\bthe course\b"),
    r"overlays/(multi-node|gpu-serving|tls|monitoring|kueue|fetch)\b",
    *(r"\bmend(s|ed|ing)?\b", r"\bto be had\b", r"\b(go|goes|going|went|gone) on\b", r"\bso many\b"),
    *(r"\bwhat is there\b", r"\bwhat comes back\b", r"\botherwise than\b"),
)
"""Words of 0.1.0 that have a replacement (CHANGELOG.md)."""

MAY_HAVE_OLD_NAMES = {
    "CHANGELOG.md",  # the table of renames
    "tests/test_docs.py",
    "LICENSE",
    "constraints.txt",
    "trainer/export/imagenet_labels.txt",
}


def test_old_names_are_in_the_changelog_only() -> None:
    pattern = re.compile("|".join(OLD_NAMES), re.I)
    found = []
    for path in tracked_files():
        if path in MAY_HAVE_OLD_NAMES or path.endswith((".png", "_pb2.py", "_pb2.pyi")):
            continue
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            found += [f"{path}:{number}: {match[0]}" for match in pattern.finditer(line)]
    assert found == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    groups += project["dependency-groups"].values()
    names = {re.split(r"[^\w-]", requirement)[0] for group in groups for requirement in group}
    rows = re.findall(r"^\|(.*?)\|(.*?)\|(.*?)\|$", section(ARCHITECTURE, "Dependencies"), re.M)
    assert names == {package for _, packages, _ in rows[2:] for package in re.findall(r"[\w-]{2,}", packages)}
    extras = {extra for first, _, _ in rows for extra in re.findall(r"`(\w+)`", first)}
    assert extras == {*project["project"]["optional-dependencies"], *project["dependency-groups"]}


STUB = """#!/bin/sh
echo "${0##*/} $*" >> "$CALLS"
"""


def test_the_readmes_cluster_block_works_as_pasted(tmp_path: Path) -> None:
    """With docker, kubectl and python replaced by programs that note their arguments."""
    (block,) = re.findall(r"^```bash\n(.*?)^```", section(README, "Deploy to a cluster"), re.M | re.S)
    for program in ("docker", "kubectl", "python"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / program).write_text(STUB)
        (tmp_path / "bin" / program).chmod(0o755)
    calls = tmp_path / "calls"
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CALLS": str(calls)}
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=environment, check=True)
    lines = calls.read_text().splitlines()
    built = [re.fullmatch(r"docker build -f (\S+) -t (\S+) \.", line) for line in lines]
    images = {match[2]: match[1] for match in built if match}
    assert sorted(images.values()) == sorted(file.name for file in ROOT.glob("Dockerfile.*"))
    assert {line.split()[-1] for line in lines if line.startswith("docker push")} == set(images)
    for line in lines:
        program, *arguments = line.removeprefix("python -m ").split()
        if program in PARSERS:
            PARSERS[program].build_parser().parse_args(arguments)
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    rendered = subprocess.run(
        ["kubectl", "kustomize", tmp_path / "mine"], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r" image: (\S+)", rendered)) == set(images)
    assert set(re.findall(r"^  namespace: (\S+)$", rendered, re.M)) == {"ml"}


def test_two_patches_of_the_overlay_for_kind_make_a_deployment_without_a_gpu(tmp_path: Path) -> None:
    """With the files that docs/operations.md tells the reader to copy."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    text = (ROOT / "docs" / "operations.md").read_text()
    (files,) = re.findall(r"^cp (.*) mine/$", text, re.M)
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (tmp_path / "mine").mkdir()
    patches = [{"path": Path(shutil.copy(ROOT / file, tmp_path / "mine")).name} for file in files.split()]
    kustomization = {"resources": ["../k8s"], "patches": patches}
    (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    rendered = subprocess.run(
        ["kubectl", "kustomize", tmp_path / "mine"], capture_output=True, text=True, check=True
    ).stdout
    assert "nvidia.com/gpu" not in rendered
    assert "gpus" not in rendered


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for _, line in shown(r"make [a-z]")}
    assert named <= targets
    assert {line.split()[1] for _, line in shown("make test")} == {"test"}


def test_every_flag_that_is_named_exists() -> None:
    flags = {"--build-arg", "--help", "--selector"}  # docker's, everybody's, kubectl's
    for parser in (module.build_parser() for module in PARSERS.values()):
        flags |= set(re.findall(r"--[a-z][\w-]*", helps(parser)))
    for file, line in shown("--"):
        named = re.findall(r"--[a-z][\w-]*", line)
        assert set(named) <= flags, f"{file.name}: {line}"


def helps(parser: argparse.ArgumentParser) -> str:
    """Return the help of a parser and of its commands."""
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


def test_extras_and_dockerfiles_exist() -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    for _, line in shown("pip install '"):
        (extra,) = re.findall(r"\[(\w+)\]", line)
        assert extra in extras
    for _, line in shown("docker build"):
        assert "$" in line or (ROOT / line.split()[3]).is_file()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_has_the_commands_and_the_manifests_have_what_they_name() -> None:
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
    assert {"test", *pieces} == gate - {"measured"}  # it needs photographs
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert steps == ["make test", "make ${{ matrix.piece }}"]
