"""The server as a program: starting before its model, new versions, signals, a port in use."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.conftest import tiny_saved_model
from tests.local_server.test_versions import predict, publish

COMMAND = [sys.executable, "-m", "local_server"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def test_waits_for_a_first_version_then_follows_new_ones_and_drains_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    base_path = tmp_path / "later"
    flags = [
        f"--port={port}",
        "--model_name=m",
        f"--model_base_path={base_path}",
        "--file_system_poll_wait_seconds=0.1",
    ]
    server = subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    while "waiting: " not in server.stderr.readline():
        assert server.poll() is None
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.FutureTimeoutError):  # not open before a version is there
            grpc.channel_ready_future(channel).result(timeout=0.5)
        base_path.mkdir()
        publish(base_path, 1)
        grpc.channel_ready_future(channel).result(timeout=60)
        assert predict(stub) == (1.0, 1)
        publish(base_path, 2)
        while "serving version 2" not in server.stderr.readline():
            assert server.poll() is None
        assert predict(stub) == (2.0, 2)
    server.send_signal(signal.SIGTERM)
    _, rest = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "Traceback" not in rest


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    tiny_saved_model(tmp_path / "1", 1.0)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, f"--port={port}", f"--model_base_path={tmp_path}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"python -m local_server: --port {port} cannot be used")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flag", ["--model_base_path", "--file_system_poll_wait_seconds=0", "--grpc_max_threads=0"]
)
def test_wrong_usage_exits_with_2(flag: str) -> None:
    done = subprocess.run([*COMMAND, flag], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "usage: python -m local_server" in done.stderr
