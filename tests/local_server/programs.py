"""Model servers as programs: the local server, and TensorFlow Serving where it is installed."""

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

PROGRAMS = ["local_server", "tensorflow_model_server"]
IMAGE = os.environ.get("TENSORFLOW_SERVING_IMAGE", "tensorflow/serving:2.20.0")
POLL_S = {"local_server": 0.1, "tensorflow_model_server": 1}  # TensorFlow Serving takes whole seconds only


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def command(program: str, shared: Path) -> list[str]:
    """Return the command of a model server that can read `shared`; skip the test if none is installed."""
    if program == "local_server":
        return [sys.executable, "-m", "local_server"]
    if path := os.environ.get("TENSORFLOW_MODEL_SERVER"):
        return [path]
    if shutil.which("docker") and _is_official(IMAGE):
        mount = f"--volume={shared}:{shared}"
        entry = "--entrypoint=tensorflow_model_server"
        return ["docker", "run", "--rm", "--init", "--network=host", mount, entry, IMAGE]
    pytest.skip(f"needs TENSORFLOW_MODEL_SERVER or the image {IMAGE}")


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
    poll = f"--file_system_poll_wait_seconds={POLL_S[program]}"
    argv = [*command(program, shared), f"--port={port}", poll, "--grpc_max_threads=64", *flags]
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
