"""Wheel and sdist are complete, and each extra installs what its commands need in an empty environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.trainer.processes import free_port

ROOT = Path(__file__).parents[1]
NAME = "image-classifier-on-kubernetes"

pytestmark = pytest.mark.packages


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of both; `python -m build` builds the wheel from the sdist."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", directory, ROOT], check=True)
    return directory


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def sdist(built: Path) -> Path:
    (sdist,) = built.glob("*.tar.gz")
    return sdist


class Environment:
    """An empty virtual environment, whose programs run in an empty folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.work = home / "work"
        venv.create(home, with_pip=True)
        self.work.mkdir()

    def install(self, what: str) -> None:
        self.run("python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", what)

    def packages(self) -> set[str]:
        """Return the names of the installed packages, without pip and its own."""
        listed = json.loads(self.run("python", "-m", "pip", "list", "--format", "json"))
        return {one["name"].lower().replace("_", "-") for one in listed} - {"pip", "setuptools"}

    def seconds(self, *arguments: object) -> float:
        """Return how long `python` takes with these arguments: the best of three runs."""
        times = []
        for _ in range(3):
            started = time.monotonic()
            self.run("python", *arguments)
            times.append(time.monotonic() - started)
        return min(times)

    def run(self, program: str, *arguments: object, code: int = 0, **variables: str) -> str:
        """Return stdout, or stderr if the program is expected to fail."""
        done = subprocess.run(
            [self.home / "bin" / program, *map(str, arguments)],
            cwd=self.work,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    @contextmanager
    def running(self, program: str, *arguments: object) -> Iterator[None]:
        process = subprocess.Popen([self.home / "bin" / program, *map(str, arguments)], cwd=self.work)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def test_the_sdist_is_the_repository_and_the_wheel_the_three_packages(sdist: Path, wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {name for name in listed.splitlines() if name != ".gitignore"}
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert ours - held == set()
    packages = ("trainer/", "serving_client/", "local_server/")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == {name for name in ours if name.startswith(packages)}


@pytest.mark.parametrize("form", ["wheel", "sdist"])
def test_the_client_works_without_an_extra_and_other_commands_name_theirs(
    form: str, request: pytest.FixtureRequest, tmp_path: Path, address: str, image_tree: Path
) -> None:
    environment = Environment(tmp_path / "env")
    environment.install(str(request.getfixturevalue(form)))
    core = {"grpcio", "numpy", "pillow", "protobuf", "typing-extensions"}  # grpcio needs the last
    assert environment.packages() == core | {NAME}
    picture = image_tree / "test/sun/000.jpg"
    out = environment.run(
        "serving-client", "classify", picture, "--server", address, "--model", "tiny", "--json"
    )
    assert json.loads(out)["scores"][0]["label"]
    for program, arguments, extra in (
        ("trainer", ["train", "--data", "x", "--model-dir", "y"], "train"),
        ("trainer", ["submit"], "cluster"),
        ("local-server", ["--model_base_path", "/x"], "train"),
        ("serving-client", ["gateway", "--model", "x"], "gateway"),
    ):
        code = 2 if program == "trainer" else 1
        (line,) = environment.run(program, *arguments, code=code).splitlines()
        assert f"extra `{extra}`" in line and f"pip install '{NAME}[{extra}]'" in line


def test_the_gateway_works_with_its_extra_alone(
    wheel: Path, tmp_path: Path, address: str, image_tree: Path
) -> None:
    environment = Environment(tmp_path / "env")
    environment.install(f"{wheel}[gateway]")
    assert "tensorflow" not in environment.packages()
    port = free_port()
    picture = (image_tree / "test/sun/000.jpg").read_bytes()
    transport = httpx.HTTPTransport(retries=8)  # each waits twice as long: until it is up
    with (
        environment.running(
            "serving-client", "gateway", "--server", address, "--model", "tiny", "--port", port
        ),
        httpx.Client(base_url=f"http://localhost:{port}", transport=transport, timeout=30) as http,
    ):
        assert http.post("/v1/classify", content=picture).json()["results"][0]["scores"]
        assert "<!doctype html>" in http.get("/").text.lower()


def test_the_cluster_commands_need_no_tensorflow_and_start_quickly(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    environment.install(f"{wheel}[cluster]")
    assert environment.packages().isdisjoint({"tensorflow", "keras", "matplotlib"})
    for command in ("jobs", "versions", "submit"):
        assert environment.seconds("-m", "trainer", command, "--help") < 1
    # All imports succeed; only a cluster is missing.
    (line,) = environment.run("trainer", "jobs", code=11, KUBECONFIG="/nowhere").splitlines()
    assert "KUBECONFIG" in line


def test_a_model_is_trained_and_served_with_the_extra_train(
    wheel: Path, tmp_path: Path, weights_file: Path
) -> None:
    environment = Environment(tmp_path / "env")
    environment.install(f"{wheel}[train]")
    environment.run("trainer", "sample", "images", "--train-per-class", 8)
    environment.run(
        *("trainer", "train", "--data", "images", "--model-dir", "models", "--name", "mine"),
        *("--backbone", "vgg16", "--weights", weights_file, "--image-size", 32, "--epochs", 1),
    )
    assert (environment.work / "models/mine/1/saved_model.pb").is_file()
    assert len(list(environment.work.glob("models/mine/.runs/*/report.html"))) == 1
    port = free_port()
    with environment.running(
        "local-server", "--model_name", "mine", "--model_base_path", "models/mine", "--port", port
    ):
        out = environment.run(
            *("serving-client", "classify", "images/test", "--model", "mine", "--json"),
            *("--server", f"localhost:{port}", "--wait", "--timeout-s", 60),
        )
    assert len(out.splitlines()) == 12
