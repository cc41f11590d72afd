"""The images run as in a cluster: read-only, without capabilities, as their own user, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes_objects import BASE, ROOT, find, first_container, pod_spec

pytestmark = pytest.mark.containers

SERVING = pod_spec(find(BASE, "Deployment/classifier"))
GATEWAY = first_container(find(BASE, "Deployment/classifier-gateway"))
CONFIG: dict[str, str] = find(BASE, "ConfigMap/classifier-serving")["data"]
TRAIN_IMAGE = "image-classifier-train:test"
SERVE_IMAGE = "image-classifier-serve:test"
GATEWAY_IMAGE = "image-classifier-gateway:test"
BAKED_IMAGE = "image-classifier-serve:baked"
OFFICIAL = "tensorflow/serving:2.20.0"
STAND_IN = "tensorflow/serving:stand-in"
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def docker(*arguments: str | Path, timeout_s: float = 120) -> str:
    done = subprocess.run(
        ["docker", *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def has_engine() -> bool:
    return shutil.which("docker") is not None and (
        subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture(scope="module")
def images() -> None:
    """Build the images, on a stand-in for TensorFlow Serving if its official image is not on this machine."""
    if not has_engine():
        pytest.skip("no Docker engine is running")
    docker(
        "build", "-f", ROOT / "Dockerfile.train", "--build-arg=ACCELERATOR=cpu", "-t", TRAIN_IMAGE, ROOT,
        timeout_s=1800,
    )  # fmt: skip
    tag = OFFICIAL.split(":")[1]
    if subprocess.run(["docker", "image", "inspect", OFFICIAL], capture_output=True, check=False).returncode:
        tag = STAND_IN.split(":")[1]
        stand_in = Path(__file__).with_name("Dockerfile.tensorflow-serving-stand-in")
        docker(
            "build", "-f", stand_in, f"--build-arg=TRAIN_IMAGE={TRAIN_IMAGE}", "-t", STAND_IN, stand_in.parent
        )
    docker("build", "-f", ROOT / "Dockerfile.gateway", "-t", GATEWAY_IMAGE, ROOT, timeout_s=600)
    docker(
        "build", "-f", ROOT / "Dockerfile.serve", f"--build-arg=TF_SERVING_TAG={tag}", "-t", SERVE_IMAGE, ROOT
    )


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("volume")
    directory.chmod(0o777)
    for parent in directory.parents:  # other users cannot open pytest's directories
        if parent.owner() == directory.owner() and parent != Path("/") and os.access(parent, os.W_OK):
            parent.chmod(parent.stat().st_mode | 0o011)
    return directory


@pytest.fixture(scope="module")
def published(images: None, volume: Path) -> str:
    """The output of the trainer's container, which publishes version 1 to the shared volume."""
    trainer = ["run", "--rm", "--network=none", "--tmpfs=/tmp", *HARDENED, f"--volume={volume}:/volume"]
    docker(*trainer, TRAIN_IMAGE, "sample", "/volume/images")
    return docker(
        *trainer, TRAIN_IMAGE, "train", "--data=/volume/images", "--model-dir=/volume/models",
        "--name=classifier", "--backbone=resnet50v2", "--weights=none", "--image-size=64",
        "--learning-rate=0.05", "--cpu-replicas=2",
        timeout_s=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(volume: Path) -> Path:
    """The manifest's ConfigMap as a folder, as the pods mount it."""
    directory = volume / "config"
    directory.mkdir()
    for name, text in CONFIG.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture(scope="module")
def server(images: None, published: str, volume: Path, config: Path) -> Iterator[str]:
    """The id of a container that runs the serving image with the manifest's arguments."""
    container = docker(
        "run", "--detach", "--tmpfs=/tmp", *HARDENED, f"--volume={volume}/models:/models:ro",
        f"--volume={config}:/config:ro", SERVE_IMAGE, *SERVING["containers"][0]["args"],
    ).strip()  # fmt: skip
    yield container
    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def test_the_trainers_container_publishes_as_its_own_user(published: str, volume: Path) -> None:
    assert "/volume/models/classifier/1" in published
    assert (volume / "models" / "classifier" / "1").stat().st_uid == 10001


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_a_client_container_classifies_through_the_server(server: str, volume: Path, via: str) -> None:
    labels = ("fish", "flower", "house", "moon", "sun", "tree")
    printed = docker(
        "run", "--rm", f"--network=container:{server}", "--tmpfs=/tmp", *HARDENED,
        f"--volume={volume}/images:/images:ro", GATEWAY_IMAGE,
        "classify", *(f"/images/test/{label}/000.jpg" for label in labels),
        "--model=classifier", "--wait", "--timeout-s=60", "--json", f"--via={via}",
    )  # fmt: skip
    answers = [json.loads(line)["scores"][0]["label"] for line in printed.splitlines()]
    assert sum(answer == label for answer, label in zip(answers, labels, strict=True)) >= 5


def test_the_pod_waits_for_a_first_version(published: str, volume: Path) -> None:
    (wait,) = SERVING["initContainers"]
    (volume / "empty").mkdir()
    waiting = ["--rm", "--network=none", *HARDENED, f"--entrypoint={wait['command'][0]}"]
    command = [SERVE_IMAGE, *wait["command"][1:], *wait["args"]]
    printed = docker("run", *waiting, f"--volume={volume}/models:/models:ro", *command)
    assert "/models/classifier/1/" in printed
    name = f"waits-{os.getpid()}"
    docker("run", "--detach", f"--name={name}", *waiting, f"--volume={volume}/empty:/models:ro", *command)
    try:
        time.sleep(1)
        assert "/models/classifier" in docker("logs", name)
        assert docker("inspect", "--format={{.State.Running}}", name).strip() == "true"
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def test_the_gateways_container_answers_over_http(server: str, volume: Path) -> None:
    """With the manifest's arguments except --server, whose name resolves only in a cluster."""
    flags = [flag for flag in GATEWAY["args"] if not flag.startswith("--server=")]
    network = f"--network=container:{server}"
    gateway = docker("run", "--detach", network, "--tmpfs=/tmp", *HARDENED, GATEWAY_IMAGE, *flags).strip()
    ask = """
import json, time, urllib.request
for _ in range(100):
    try:
        assert urllib.request.urlopen("http://localhost:8080/readyz").read() == b"ready"
        break
    except OSError:
        time.sleep(0.2)
picture = open("/images/test/moon/000.jpg", "rb").read()
answer = urllib.request.urlopen("http://localhost:8080/v1/classify", picture)
print(json.load(answer)["results"][0]["scores"][0]["label"])
"""
    try:
        printed = docker(
            "run", "--rm", network, "--tmpfs=/tmp", *HARDENED, f"--volume={volume}/images:/images:ro",
            "--entrypoint=python", GATEWAY_IMAGE, "-c", ask,
        )  # fmt: skip
        assert printed.strip() == "moon"
        docker("stop", "--time=30", gateway)
        assert docker("inspect", "--format={{.State.ExitCode}}", gateway).strip() == "0"
    finally:
        subprocess.run(["docker", "rm", "--force", gateway], capture_output=True, check=False)


def test_the_gateways_image_has_no_tensorflow(images: None) -> None:
    docker(
        "run", "--rm", "--entrypoint=python", GATEWAY_IMAGE, "-c",
        "import importlib.util; assert importlib.util.find_spec('tensorflow') is None",
    )  # fmt: skip


def test_no_container_runs_as_root(server: str) -> None:
    for image in (TRAIN_IMAGE, SERVE_IMAGE, GATEWAY_IMAGE):
        assert docker("image", "inspect", "--format={{.Config.User}}", image).strip() == "10001:10001"


def test_models_can_be_baked_into_the_image(images: None, published: str, volume: Path) -> None:
    context = volume / "context"
    shutil.copytree(volume / "models" / "classifier" / "1", context / "models" / "classifier" / "1")
    for name in ("Dockerfile.serve", "LICENSE", ".dockerignore"):
        shutil.copy(ROOT / name, context)
    tag = docker("image", "inspect", '--format={{index .Config.Labels "stand-in"}}', SERVE_IMAGE).strip()
    docker(
        "build", "-f", context / "Dockerfile.serve", "--build-arg=MODELS=models",
        f"--build-arg=TF_SERVING_TAG={'stand-in' if tag == 'true' else '2.20.0'}", "-t", BAKED_IMAGE, context,
    )  # fmt: skip
    container = docker("run", "--detach", "--tmpfs=/tmp", *HARDENED, BAKED_IMAGE).strip()
    try:
        printed = docker(
            "run", "--rm", f"--network=container:{container}", "--tmpfs=/tmp", *HARDENED,
            GATEWAY_IMAGE,
            "describe", "--model=classifier", "--wait", "--timeout-s=60", "--json",
        )  # fmt: skip
        assert json.loads(printed)["version"] == 1
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def test_sigterm_reaches_the_server(server: str) -> None:
    started = time.monotonic()
    docker("stop", "--time=30", server)
    assert time.monotonic() - started < 15
    assert docker("inspect", "--format={{.State.ExitCode}}", server).strip() in ("0", "143")
