"""Model servers as programs: ours, and TensorFlow Serving's own where it is at hand, with the same flags."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

IMAGE = os.environ.get("TENSORFLOW_SERVING_IMAGE", "tensorflow/serving:2.20.0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def command(program: str, shared: Path) -> list[str]:
    """Return the command of a model server that can read `shared`; skip if there is none."""
    if program == "local_server":
        return [sys.executable, "-m", "local_server"]
    if path := os.environ.get("TENSORFLOW_MODEL_SERVER"):
        return [path]
    if shutil.which("docker") and _is_official(IMAGE):
        mount = f"--volume={shared}:{shared}"
        entry = "--entrypoint=tensorflow_model_server"
        return ["docker", "run", "--rm", "--init", "--network=host", mount, entry, IMAGE]
    pytest.skip(f"neither TENSORFLOW_MODEL_SERVER nor the image {IMAGE} is there")


def _is_official(image: str) -> bool:
    label = '{{index .Config.Labels "stand-in"}}'
    inspect = ["docker", "image", "inspect", "--format", label, image]
    done = subprocess.run(inspect, capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() in ("", "<no value>")


@contextlib.contextmanager
def running(program: str, shared: Path, flags: Sequence[str]) -> Iterator[str]:
    """Run a model server until the block ends; yield HOST:PORT of its gRPC API once it answers."""
    port = free_port()
    log = shared / f"server-{port}.log"
    argv = [*command(program, shared), f"--port={port}", "--file_system_poll_wait_seconds=1", *flags]
    with log.open("w") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
        try:
            address = f"localhost:{port}"
            with grpc.insecure_channel(address) as channel:
                ready = grpc.channel_ready_future(channel)
                deadline = time.monotonic() + 90
                while True:
                    with contextlib.suppress(grpc.FutureTimeoutError):
                        ready.result(timeout=0.5)
                        break
                    assert process.poll() is None, log.read_text()[-2000:]
                    assert time.monotonic() < deadline, log.read_text()[-2000:]
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)
