"""The server as a program: starting before its model, new versions, signals, a port in use."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
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


def test_a_call_that_has_begun_is_answered_after_sigterm(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 8 } batch_timeout_micros { value: 1500000 }")
    port = free_port()
    flags = [f"--port={port}", "--model_name=m", f"--model_base_path={tmp_path / 'm'}", "--enable_batching"]
    server = subprocess.Popen(
        [*COMMAND, *flags, f"--batching_parameters_file={batching}"], stderr=subprocess.PIPE, text=True
    )
    with grpc.insecure_channel(f"localhost:{port}") as channel, ThreadPoolExecutor() as pool:
        grpc.channel_ready_future(channel).result(timeout=60)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        waiting = [pool.submit(predict, stub) for _ in range(3)]
        time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        assert not waiting[0].done()
        assert [one.result() for one in waiting] == [(1.0, 1)] * 3
    server.communicate(timeout=30)
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "give --model_base_path or --model_config_file, one of them"),
        (
            ["--model_base_path=m", "--batching_parameters_file=f"],
            2,
            "--batching_parameters_file was set without --enable_batching",
        ),
        (["--model_base_path=m", "--grpc_channel_arguments=x"], 2, "must be NAME=VALUE,"),
        (["--model_config_file={tmp}/none"], 1, "none must be a ModelServerConfig as text: No such file"),
        (["--model_config_file={tmp}/labels"], 1, "Request to assign label to version 1 of model m"),
        (
            ["--model_base_path=m", "--enable_batching", "--batching_parameters_file={tmp}/labels"],
            1,
            "labels must be a BatchingParameters as text",
        ),
        (["--model_base_path=m", "--rest_api_port={port}"], 1, "cannot be used: another program listens"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(
    tmp_path: Path, flags: list[str], code: int, message: str
) -> None:
    labelled = 'config { name: "m" base_path: "/m" version_labels { key: "stable" value: 1 } }'
    (tmp_path / "labels").write_text(f"model_config_list {{ {labelled} }}")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        given = [flag.format(tmp=tmp_path, port=taken.getsockname()[1]) for flag in flags]
        done = subprocess.run([*COMMAND, "--port=0", *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_rest_and_metrics_have_a_port_of_their_own(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    port, rest_port = free_port(), free_port()
    flags = [
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        f"--monitoring_config_file={monitoring}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=60000",
        "--enable_profiler=false",
    ]
    server = subprocess.Popen([*COMMAND, *flags], stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
            assert predict(prediction_service_pb2_grpc.PredictionServiceStub(channel)) == (1.0, 1)
        time.sleep(0.2)
        body = json.dumps({"instances": [[1, 2]]}).encode()
        with urllib.request.urlopen(f"http://localhost:{rest_port}/v1/models/m:predict", body) as answer:
            assert json.load(answer) == {"predictions": [[1.0]]}
        with urllib.request.urlopen(f"http://localhost:{rest_port}/metrics") as answer:
            text = answer.read().decode()
        assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2.0' in text
    finally:
        server.terminate()
        server.wait(timeout=30)
