"""The layout that docs/architecture.md describes; `lint-imports` (pyproject.toml) checks who imports whom."""

import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainer", "serving_client", "local_server")


def modules(package: str) -> list[Path]:
    """Return the modules that people write and read, without `__init__` and `__main__`."""
    return [
        path
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__") and not path.name.endswith("_pb2.py")
    ]


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_the_trainers_folder_has_at_most_14_entries() -> None:
    entries = [path for path in (ROOT / "trainer").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 14, sorted(path.name for path in entries)


def test_modules_have_one_subject_by_their_size() -> None:
    for package in PACKAGES:
        assert not [str(path) for path in modules(package) if line_count(path) < 40]
        assert 80 <= statistics.median(map(line_count, modules(package))) <= 250


def without_ending(name: str) -> str:
    return re.sub(r"(ations?|ings?|ions?|ers?|ed|es|e|s)$", "", name)


def test_no_two_modules_of_a_package_differ_by_an_ending_only() -> None:
    for package in PACKAGES:
        for folder in {path.parent for path in modules(package)}:
            stems = [without_ending(path.stem) for path in folder.glob("[!_]*.py")]
            assert len(set(stems)) == len(stems), f"{folder}: {sorted(stems)}"


def test_each_suppressed_lint_has_its_reason() -> None:
    for package in (*PACKAGES, "tests", "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                ignored = re.search(r"# (type: ignore|noqa)\b(.*)", line)
                if ignored and "_pb2" not in path.name:
                    assert re.fullmatch(r"(\[[\w,-]+\]|: \w+)  # .+", ignored[2]), f"{path}:{number}"
