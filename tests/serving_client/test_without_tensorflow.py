"""The client in an environment that has only its own dependencies."""

import importlib.metadata
import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def core_dependencies() -> list[str]:
    """Return what `pip install` of the core installs: its dependencies, and theirs in turn."""
    wanted = ["image-classifier-on-kubernetes"]
    for name in wanted:
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return wanted[1:]


@pytest.fixture(scope="module")
def core_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment that links to the core dependencies' files and to nothing else."""
    home = tmp_path_factory.mktemp("core")
    venv.create(home, with_pip=False)
    (site_packages,) = home.glob("lib/python*/site-packages")
    for name in core_dependencies():
        for file in set(importlib.metadata.files(name) or []):  # Python 3.10 lists some twice
            source = Path(str(file.locate()))
            target = site_packages / file
            if ".." in file.parts or not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    (site_packages / "serving_client").symlink_to(ROOT / "serving_client")
    return home / "bin" / "python"


def test_the_core_is_four_packages() -> None:
    """And typing-extensions, which grpcio requires."""
    core = {"grpcio", "numpy", "pillow", "protobuf"}
    assert set(core_dependencies()) == core | {"typing-extensions"}


def test_imports_without_tensorflow(core_python: Path) -> None:
    code = (
        "import importlib.util, sys; assert importlib.util.find_spec('tensorflow') is None; "
        "import serving_client; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([core_python, "-c", code], check=True, cwd="/")


def test_classifies_without_tensorflow(core_python: Path, address: str, image_tree: Path) -> None:
    picture = image_tree / "test" / "sun" / "000.jpg"
    for via in ("images", "encoded"):
        done = subprocess.run(
            [
                *(core_python, "-m", "serving_client", "classify", picture),
                *("--server", address, "--model", "tiny", "--via", via, "--json"),
            ],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert json.loads(done.stdout)["scores"][0]["label"]


def test_does_not_import_an_installed_tensorflow() -> None:
    code = "import serving_client, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
