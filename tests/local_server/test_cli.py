import json
import logging
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from local_server import cli
from tests.local_server.programs import free_port
from tests.local_server.tiny_versions import predict, publish

COMMAND = [sys.executable, "-m", "local_server"]
BATCHING = "max_batch_size { value: 8 } batch_timeout_micros { value: 1500000 }"


@pytest.fixture
def main_in_process() -> Iterator[None]:
    """Undo what `main` changes in its process."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    logger = logging.getLogger("tensorflow")
    level = logger.level
    yield
    logger.setLevel(level)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_serves_from_the_first_version_until_the_last_call_after_sigterm(tmp_path: Path) -> None:
    """One process shows it all, because starting one takes seconds."""
    monitoring, batching = tmp_path / "monitoring.config", tmp_path / "batching.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    batching.write_text(BATCHING)
    base_path = tmp_path / "later"
    port, rest_port = free_port(), free_port()
    flags = [
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        "--model_name=m",
        f"--model_base_path={base_path}",
        "--file_system_poll_wait_seconds=0.1",
        f"--monitoring_config_file={monitoring}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=60000",
        "--enable_profiler=false",
        "--enable_batching",
        f"--batching_parameters_file={batching}",
    ]
    server = subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        while str(base_path) not in server.stderr.readline():  # the warning that there is no version
            assert server.poll() is None
        with grpc.insecure_channel(f"localhost:{port}") as channel, ThreadPoolExecutor() as pool:
            with pytest.raises(grpc.FutureTimeoutError):  # the port is closed until a version is loaded
                grpc.channel_ready_future(channel).result(timeout=0.3)
            base_path.mkdir()
            publish(base_path, 1)
            grpc.channel_ready_future(channel).result(timeout=60)
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert predict(stub, rows=8) == (1.0, 1)  # 8 rows are a full batch, which does not wait

            publish(base_path, 2)
            while "serving version 2" not in server.stderr.readline():
                assert server.poll() is None
            assert predict(stub, rows=8) == (2.0, 2)

            body = json.dumps({"instances": [[1, 2]] * 8}).encode()
            rest = f"http://localhost:{rest_port}"
            with urllib.request.urlopen(f"{rest}/v1/models/m:predict", body) as answer:
                assert json.load(answer) == {"predictions": [[2.0]] * 8}
            with urllib.request.urlopen(f"{rest}/metrics") as answer:
                metrics = answer.read().decode()
            assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 3.0' in metrics

            running = [pool.submit(predict, stub) for _ in range(3)]  # 3 rows wait for the batch timeout
            with pytest.raises(TimeoutError):
                running[0].result(timeout=0.3)
            server.send_signal(signal.SIGTERM)
            assert [call.result() for call in running] == [(2.0, 2)] * 3
        _, rest_of_log = server.communicate(timeout=30)
    finally:
        server.kill()
    assert server.returncode == 0
    assert "Traceback" not in rest_of_log


def test_a_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path, taken_port: int) -> None:
    done = subprocess.run(
        [*COMMAND, f"--port={taken_port}", f"--model_base_path={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("python -m local_server: ")
    assert f"--port {taken_port}" in last
    assert "Traceback" not in done.stderr


def test_wrong_usage_does_not_import_tensorflow() -> None:
    code = """
import sys
from local_server import cli
try:
    cli.main(["--nonsense"])
except SystemExit as exit:
    print(exit.code, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "False"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], ["--model_base_path", "--model_config_file"]),
        (["--model_base_path=m", "--model_config_file=f"], ["--model_base_path", "--model_config_file"]),
        (["--model_base_path"], ["--model_base_path"]),
        (["--model_base_path=m", "--batching_parameters_file=f"], ["--batching_parameters_file"]),
        (["--model_base_path=m", "--grpc_channel_arguments=x"], ["--grpc_channel_arguments", "x"]),
        (["--model_base_path=m", "--file_system_poll_wait_seconds=-1"], ["--file_system_poll_wait_seconds"]),
        (["--model_base_path=m", "--grpc_max_threads=0"], ["--grpc_max_threads", "0"]),
        (["--model_base_path=m", "--enable_batching=perhaps"], ["--enable_batching", "perhaps"]),
    ],
    ids=str,
)
def test_wrong_usage_names_the_flag_and_exits_with_2(
    flags: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(flags)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(part in last for part in named)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model_config_file={tmp}/none"], ["{tmp}/none", "ModelServerConfig"]),
        (["--model_config_file={tmp}/labels"], ["assign label to version 1 of model m"]),
        (
            ["--model_base_path=m", "--enable_batching", "--batching_parameters_file={tmp}/labels"],
            ["{tmp}/labels", "BatchingParameters"],
        ),
        (["--model_base_path=m", "--rest_api_port={port}"], ["--rest_api_port {port}"]),
    ],
    ids=["no file", "label without version", "wrong message", "port in use"],
)
@pytest.mark.usefixtures("main_in_process")
def test_a_configuration_that_cannot_be_served_is_one_line_and_exit_code_1(
    tmp_path: Path, taken_port: int, flags: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = 'config { name: "m" base_path: "/m" version_labels { key: "stable" value: 1 } }'
    (tmp_path / "labels").write_text(f"model_config_list {{ {labelled} }}")
    places = {"tmp": tmp_path, "port": taken_port}
    assert cli.main(["--port=0", *[flag.format(**places) for flag in flags]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m local_server: ")
    assert all(part.format(**places) in line for part in named)


@pytest.mark.usefixtures("main_in_process")
def test_without_its_packages_it_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "local_server.server", None)
    assert cli.main(["--model_base_path=m"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "[train]" in line
