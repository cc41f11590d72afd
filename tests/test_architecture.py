"""The imports that docs/architecture.md draws: downwards only, no circles, no TensorFlow in the client."""

import ast
import re
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
    "config_map",
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
    "feature_cache",
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
    "training_commands",
    "serving_commands",
    "job_manifest",
    "training_jobs",
    "pod_states",
    "following",
    "job_commands",
    "archives",
    "receiving",
    "pushing",
    "fetching",
    "data_commands",
    "cli",
    "__main__",
]
CLIENT = [
    "errors",
    "resizing",
    "preprocessing",
    "card",
    "wire",
    "tensors",
    "codec",
    "channel",
    "protocol",
    "client",
    "aio",
    "image_files",
    "output",
    "bench",
    "connection",
    "gateway",
    "commands",
    "cli",
    "__main__",
]
GATEWAY = [
    "settings",
    "schemas",
    "fetching",
    "uploads",
    "turns",
    "tracing",
    "observing",
    "app",
    "command",
]
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
ROOMS = {
    "trainer": TRAINER,
    "serving_client": CLIENT,
    "serving_client/gateway": GATEWAY,
    "local_server": SERVER,
}


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
        path = ROOT / package / room
        files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
        for name in {name for file in files for name in imported(file)}:
            within = name.removeprefix(package.replace("/", ".") + ".")
            other = within.split(".")[0]
            if within != name and other in rooms and not (other == room and path.is_dir()):
                assert rooms.index(other) < height, f"{room} imports {other}"


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


def test_only_the_gateway_needs_more_than_the_core() -> None:
    core = sys.stdlib_module_names | {"serving_client", "grpc", "google", "numpy", "PIL"}
    for path in (ROOT / "serving_client").rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)}
        assert path.parent.name == "gateway" or tops <= core, path


def test_config_and_errors_need_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"trainer", "tomli", "tomllib"}  # tomllib: Python 3.11
    for room in ("config", "errors"):
        for name in imported(ROOT / "trainer" / f"{room}.py"):
            assert name.split(".")[0] in allowed


def test_what_the_linters_are_told_to_pass_over_has_its_reason() -> None:
    for package in ("trainer", "serving_client", "local_server", "tests", "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                ignored = re.search(r"# (type: ignore|noqa)\b(.*)", line)
                if ignored and "_pb2" not in path.name:
                    assert re.fullmatch(r"(\[[\w,-]+\]|: \w+)  # .+", ignored[2]), f"{path}:{number}"
