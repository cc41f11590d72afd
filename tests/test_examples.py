"""Each example does what examples/README.md says about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import serving
from tests.trainer.processes import free_port
from trainer import run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

Example = Callable[..., str]

pytestmark = pytest.mark.examples


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """Runs a script in a shell, as a reader does, and returns its stdout."""

    def run_script(name: str, *arguments: object) -> str:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OUT": str(tmp_path / "out"),
            "PORT": str(free_port()),
        }
        done = subprocess.run(
            [EXAMPLES / name, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_script


@pytest.fixture
def flags(weights_file: Path) -> list[str]:
    """The flags of a small and quick run."""
    text = f"--backbone vgg16 --weights {weights_file} --image-size 32 --learning-rate 0.03 --epochs 3"
    return text.split()


def test_train_on_your_folder(example: Example, image_tree: Path, flags: list[str]) -> None:
    out = example("train_on_your_folder.sh", image_tree, *flags)
    assert re.search(r"^ok +images", out, re.M)
    assert re.search(r"^Published .*/models/mine/1: validation accuracy", out, re.M)
    assert re.search(r"^accuracy \d\.\d{4} \(\d+ of 12\)", out, re.M)
    pictures = sorted(image_tree.glob("test/*/*.jpg"))
    assert all(re.search(rf"^{re.escape(str(path))} +\w+ +0\.\d{{4}}$", out, re.M) for path in pictures)


def test_serve_a_pretrained_network(example: Example, image_tree: Path) -> None:
    image = next(image_tree.glob("test/*/*.jpg"))
    out = example("serve_a_pretrained_network.sh", image, "--weights", "none")
    assert "mobilenetv2, 1000 ImageNet classes" in out
    assert len(re.findall(r" 0\.\d{4}$", out, re.M)) == 5


def test_roll_back(example: Example, image_tree: Path, flags: list[str]) -> None:
    out = example("roll_back.sh", image_tree, *flags)
    assert re.findall(r"^model +mine, version (\d)", out, re.M) == ["1", "2", "1"]


def test_fine_tune_on_two_nodes(example: Example, image_tree: Path, flags: list[str], tmp_path: Path) -> None:
    example(
        "fine_tune_on_two_nodes/rehearse.sh",
        image_tree,
        *flags,
        *("--fine-tune-from", "block5", "--fine-tune-epochs", "1"),
    )
    models = tmp_path / "out/models/mine"
    assert [path.name for path in models.glob("[0-9]*")] == ["1"]
    (history,) = models.glob(".runs/*/history.json")
    assert [epoch["phase"] for epoch in json.loads(history.read_text())] == ["head"] * 3 + ["fine-tune"]


@pytest.fixture
def service(published: run.Published) -> Iterator[str]:
    """The address of the asyncio service, which calls a server with the tests' model."""
    port = free_port()
    with serving("tiny", published.path.parent) as (address, _):
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "asyncio_service:app", f"--port={port}"],
            env={**os.environ, "MODEL_SERVER": address, "MODEL": "tiny"},
        )
        try:
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.wait(30)


def test_asyncio_service(service: str, image_tree: Path) -> None:
    transport = httpx.HTTPTransport(retries=8)  # each waits twice as long: until it is up
    with httpx.Client(base_url=service, transport=transport, timeout=30) as http:
        for path in sorted(image_tree.glob("test/*/*.jpg")):
            answer = http.post("/tags", content=path.read_bytes())
            assert answer.status_code == 200
            assert path.parent.name in answer.json()
        answer = http.post("/tags", content=b"a text")
    assert answer.status_code == 400
    assert "cannot be decoded" in answer.json()["detail"]
