"""The imports that docs/architecture.md draws: downwards only, no circles, no TensorFlow in the client."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the lowest room to the highest: a module imports only from those before it.
TRAINER = [
    "errors",
    "config",
    "trials",
    "workers",
    "quiet_import",
    "stopping",
    "clock",
    "storage",
    "volumes",
    "model_config",
    "config_store",
    "cluster",
    "backbones",
    "bad_images",
    "images",
    "image_checks",
    "progress",
    "augmentation",
    "pipeline",
    "classifier",
    "folding",
    "distribution",
    "prefix_cache",
    "extraction",
    "evaluation",
    "checkpoint",
    "adam",
    "feed",
    "train_step",
    "loop",
    "side_by_side",
    "fitting",
    "phases",
    "results",
    "usable",
    "model_card",
    "signatures",
    "publishing",
    "versions",
    "retention",
    "exported",
    "gate",
    "warmup",
    "proof",
    "release",
    "event_log",
    "plots",
    "report",
    "evaluate",
    "runs",
    "doctor",
    "trials_report",
    "tune",
    "sample",
    "pretrained",
    "run",
    "command",
    "serving_commands",
    "cli",
    "__main__",
]
CLIENT = ["errors", "preprocessing", "card", "wire", "codec", "channel", "client", "cli", "__main__"]
SERVER = [
    "wire",
    "configuration",
    "statuses",
    "batching",
    "warmup",
    "servable",
    "versions",
    "models",
    "handlers",
    "metrics",
    "json_tensors",
    "services",
    "rest",
    "server",
    "cli",
    "__main__",
]
ROOMS = {"trainer": TRAINER, "serving_client": CLIENT, "local_server": SERVER}


def imported(path: Path) -> set[str]:
    """Return the full names of what a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_has_its_room(package: str) -> None:
    found = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    found |= {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
    assert found == set(ROOMS[package])


@pytest.mark.parametrize("package", ROOMS)
def test_imports_go_down_only(package: str) -> None:
    rooms = ROOMS[package]
    for height, room in enumerate(rooms):
        path = ROOT / package / f"{room}.py"
        if not path.exists():
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] in rooms:
                assert rooms.index(parts[1]) < height, f"{room} imports {parts[1]}"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("serving_client", {"trainer", "local_server", "tensorflow", "tensorflow_serving", "keras", "rich"}),
        ("trainer", {"serving_client", "local_server"}),
        ("local_server", {"serving_client", "trainer", "keras"}),
    ],
)
def test_packages_do_not_import_each_other(package: str, forbidden: set[str]) -> None:
    for path in (ROOT / package).rglob("*.py"):
        # The proof before publishing asks as a client does, with the client's own half.
        contract = {"serving_client.preprocessing"} if path.name == "proof.py" else set()
        tops = {name.split(".")[0] for name in imported(path) - contract}
        assert not tops & forbidden, f"{path} imports {tops & forbidden}"


def test_config_and_errors_need_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"trainer", "tomli", "tomllib"}  # tomllib: Python 3.11
    for room in ("config", "errors"):
        for name in imported(ROOT / "trainer" / f"{room}.py"):
            assert name.split(".")[0] in allowed
