"""The gateway as its command starts it, in a process of its own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.serving_client.fake_model_server import free_port


@contextlib.contextmanager
def running(
    server: str, log: Path, *flags: object, model: str = "tiny", env: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the gateway's URL and process once it answers."""
    url = f"http://127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "serving_client", "gateway", "--server", server, "--model", model]
    argv += ["--port", url.rpartition(":")[2], *map(str, flags)]
    with log.open("w") as file, subprocess.Popen(argv, stderr=file, text=True, env=env) as process:
        try:
            deadline = time.monotonic() + 60
            while not answers(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield url, process
        finally:
            process.terminate()
            process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def pictures(image_tree: Path) -> list[Path]:
    """One picture of each class."""
    return sorted(image_tree.glob("test/*/000.jpg"))


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway") / "log"


@pytest.fixture(scope="session")
def gateway(address: str, log: Path) -> Iterator[str]:
    """URL of a gateway in front of the published version, with small limits."""
    limits = ["--max-images", 4, "--max-body-mb", 8, "--max-megapixels", 1, "--timeout-s", 60]
    with running(address, log, *limits) as (url, _):
        yield url


@pytest.fixture
def http(gateway: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway, timeout=60, trust_env=False) as client:
        yield client
