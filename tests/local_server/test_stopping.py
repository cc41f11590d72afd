"""SIGTERM ends the server with exit code 0, after the calls that run and never in the middle of one."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from tests.local_server.programs import free_port
from tests.local_server.tiny_versions import predict_request, publish

GRACE = "from local_server import cli, server; server._SHUTDOWN_GRACE_S = {}; cli.main()"
BATCHING = "max_batch_size { value: 3 } batch_timeout_micros { value: 100000 } num_batch_threads { value: 6 }"
BODY = json.dumps({"instances": [[7, 0]]})
PATH = "/v1/models/m:predict"


class Gated(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """Answers its first column. Rows above 0 wait inside of TensorFlow until the gate, a file, exists."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="images")])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        def is_closed(turn: tf.Tensor) -> tf.Tensor:
            nothing = tf.strings.substr(tf.strings.as_string(turn), 0, 0)  # so that no turn is optimized away
            return tf.size(tf.io.matching_files(tf.strings.join([self.gate, nothing]))) == 0

        turns = tf.while_loop(
            lambda turn: tf.logical_and(tf.reduce_max(images) > 0, is_closed(turn)),
            lambda turn: [turn + 1],
            [tf.constant(0)],
        )
        return {"probabilities": images[:, :1] + 0 * tf.cast(turns[0], tf.float32)}


def publish_gated(base_path: Path, gate: Path) -> None:
    module = Gated(gate)
    tf.saved_model.save(module, str(base_path / ".staging"), signatures={"serving_default": module.serve})
    (base_path / ".staging").rename(base_path / "1")


def request(value: float) -> predict_pb2.PredictRequest:
    request = predict_request()
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.array([[value, 0]], np.float32)))
    return request


class Running:
    """A server process with both ports."""

    def __init__(self, base_path: Path, log: Path, flags: Sequence[str], code: Sequence[str]) -> None:
        self.port, self.rest_port, self.log = free_port(), free_port(), log
        ports = [f"--port={self.port}", f"--rest_api_port={self.rest_port}"]
        model = ["--model_name=m", f"--model_base_path={base_path}", "--file_system_poll_wait_seconds=0.1"]
        with log.open("w") as output:
            self.process = subprocess.Popen([sys.executable, *code, *ports, *model, *flags], stderr=output)

    def wait_for(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not holds():
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def wait_for_log(self, text: str) -> None:
        self.wait_for(lambda: text in self.log.read_text())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def assert_ends_without_a_crash(self) -> None:
        # The server ends idle connections after 60 s anyway: a longer wait would not show who closed them.
        assert self.process.wait(timeout=30) == 0, self.log.read_text()[-2000:]
        assert "Traceback" not in self.log.read_text()
        assert "Fatal" not in self.log.read_text()

    def connect_rest(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("localhost", self.rest_port, timeout=60)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def run(
            base_path: Path, flags: Sequence[str] = (), code: Sequence[str] = ("-m", "local_server")
        ) -> Running:
            base_path.mkdir(exist_ok=True)
            running = Running(base_path, tmp_path / "server.log", flags, code)
            stack.callback(running.process.wait)
            stack.callback(running.process.kill)
            return running

        yield run


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def ask(connection: http.client.HTTPConnection, body: str = BODY) -> tuple[int, Any]:
    connection.request("POST", PATH, body)
    response = connection.getresponse()
    return response.status, json.load(response)


@pytest.mark.parametrize("is_batching", [False, True], ids=["alone", "batching"])
def test_calls_in_flight_are_answered_new_connections_refused_and_idle_ones_not_waited_for(
    tmp_path: Path, start: Callable[..., Running], is_batching: bool
) -> None:
    gate, batching = tmp_path / "gate", tmp_path / "batching.config"
    batching.write_text(BATCHING)
    publish_gated(tmp_path / "m", gate)
    flags = ["--enable_batching", f"--batching_parameters_file={batching}"] if is_batching else []
    threads = ["--grpc_max_threads=8", "--rest_api_num_threads=8"]
    # If the idle connections were waited for, the process would not end in time.
    server = start(tmp_path / "m", [*threads, *flags], code=["-c", GRACE.format(600)])
    server.wait_for_log("REST API on port")
    idle = [server.connect_rest() for _ in range(3)]
    idle[0].connect()  # never used
    for connection in idle[1:]:
        assert ask(connection, json.dumps({"instances": [[0, 0]]})) == (200, {"predictions": [[0.0]]})
    reused = idle.pop()
    connections = [reused, server.connect_rest(), server.connect_rest()]
    with (
        grpc.insecure_channel(f"localhost:{server.port}") as channel,
        ThreadPoolExecutor(6) as pool,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        by_rest = [pool.submit(ask, connection) for connection in connections]
        by_grpc = [pool.submit(stub.Predict, request(7), timeout=60) for _ in range(3)]
        time.sleep(0.5)  # the calls arrive
        server.stop()
        server.wait_for(lambda: is_refused(server.port) and is_refused(server.rest_port))
        assert not any(call.done() for call in [*by_rest, *by_grpc])
        gate.touch()
        assert [call.result() for call in by_rest] == [(200, {"predictions": [[7.0]]})] * 3
        for call in by_grpc:
            assert tf.make_ndarray(call.result().outputs["probabilities"]).tolist() == [[7.0]]
    server.assert_ends_without_a_crash()
    for connection in idle:
        connection.close()


def test_a_call_that_outlasts_the_grace_period_is_cut_without_a_crash(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    publish_gated(tmp_path / "m", tmp_path / "gate")  # nobody opens it
    server = start(tmp_path / "m", code=["-c", GRACE.format(0.5)])
    server.wait_for_log("REST API on port")
    with grpc.insecure_channel(f"localhost:{server.port}") as channel, ThreadPoolExecutor(2) as pool:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        by_rest = pool.submit(ask, server.connect_rest())
        by_grpc = pool.submit(stub.Predict, request(7), timeout=60)
        time.sleep(0.5)
        server.stop()
        server.assert_ends_without_a_crash()
        assert isinstance(by_rest.exception(), (OSError, http.client.HTTPException))
        assert isinstance(by_grpc.exception(), grpc.RpcError)


def test_a_version_that_is_loading_does_not_hold_up_the_end(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    publish_gated(tmp_path / "m", tmp_path / "gate")
    warmup = tmp_path / "m" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    warmup.parent.mkdir()
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request(7))
    with tf.io.TFRecordWriter(str(warmup)) as file:
        file.write(log.SerializeToString())
    server = start(tmp_path / "m")
    server.wait_for_log("loading version 1")
    time.sleep(0.5)  # the warm-up waits at the gate
    server.stop()
    server.assert_ends_without_a_crash()


def test_a_server_that_waits_for_its_first_version_ends(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    server = start(tmp_path / "m")
    server.wait_for_log("waiting for a version")
    server.stop()
    server.assert_ends_without_a_crash()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_server_that_is_starting_ends(tmp_path: Path, start: Callable[..., Running]) -> None:
    publish(tmp_path / "m", 1)
    server = start(tmp_path / "m")
    status = Path(f"/proc/{server.process.pid}/status")

    def handles_sigterm() -> bool:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    server.wait_for(handles_sigterm)
    server.stop()
    server.assert_ends_without_a_crash()
    assert "port" not in server.log.read_text()
