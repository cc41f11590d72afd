"""Versions are published, promoted and rolled back on a running server, also under load."""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving_client import codec, wire
from tests.local_server.programs import POLL_S, PROGRAMS, running
from tests.local_server.sample_requests import PredictCall, calls_of
from tests.local_server.tiny_versions import publish
from trainer.cluster import model_config
from trainer.cluster.config_store import ConfigFile

CALLERS = 16
# Each test changes the versions and labels of a model of its own. All start with version 1.
MODELS = ["states", "short", "long"]
MODEL = """config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow"
  model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }} }}
"""
BATCHING = """
max_batch_size { value: 32 } batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 } num_batch_threads { value: 2 }
allowed_batch_sizes: 32
"""
ROW = {"images": np.zeros((1, 2), np.float32)}
State = get_model_status_pb2.ModelVersionStatus


@dataclasses.dataclass(frozen=True)
class RunningServer:
    program: str
    directory: Path
    channel: grpc.Channel

    @property
    def predict(self) -> PredictCall:
        return calls_of(self.channel)

    def publish(self, model: str, version: int) -> None:
        publish(self.directory / model, version)

    def promote(self, model: str, version: int) -> None:
        self._edit(lambda text: model_config.promote(text, model, "stable", version, "the file"))

    def roll_back(self, model: str) -> None:
        self._edit(lambda text: model_config.roll_back(text, model, "stable", "the file")[0])

    def _edit(self, change: Callable[[str], str]) -> None:
        ConfigFile(self.directory / "models.config").edit(change)

    def answering_version(self, model: str, **which: Any) -> int:
        return int(self.predict(ROW, name=model, **which).model_spec.version.value)

    def states(self, model: str) -> list[tuple[int, int]]:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        stub = model_service_pb2_grpc.ModelServiceStub(self.channel)
        response = stub.GetModelStatus(request, timeout=10)
        return [(status.version, status.state) for status in response.model_version_status]


@pytest.fixture(scope="module", params=PROGRAMS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("versions")
    for name in MODELS:
        publish(directory / name, 1)
    models = "".join(MODEL.format(name=name, base_path=directory / name) for name in MODELS)
    (directory / "models.config").write_text(f"model_config_list {{\n{models}}}\n")
    (directory / "batching.config").write_text(BATCHING)
    flags = [
        f"--model_config_file={directory / 'models.config'}",
        f"--model_config_file_poll_wait_seconds={POLL_S[request.param]}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        f"--batching_parameters_file={directory / 'batching.config'}",
    ]
    with running(request.param, directory, flags) as address, grpc.insecure_channel(address) as channel:
        yield RunningServer(request.param, directory, channel)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_labels_move_between_loaded_versions_only(server: RunningServer) -> None:
    stable = functools.partial(server.answering_version, "states", label="stable")
    assert server.states("states") == [(1, State.AVAILABLE)]
    assert stable() == 1
    server.publish("states", 2)
    wait_until(lambda: server.states("states") == [(2, State.AVAILABLE), (1, State.AVAILABLE)])
    assert server.answering_version("states") == 2
    assert server.answering_version("states", version=1) == 1
    assert stable() == 1
    server.promote("states", 2)
    wait_until(lambda: stable() == 2)
    server.roll_back("states")
    wait_until(lambda: stable() == 1)
    config = server.directory / "models.config"
    valid = config.read_text()
    server.promote("states", 9)
    time.sleep(3 * POLL_S[server.program])
    assert stable() == 1
    config.write_text(valid)  # one invalid label makes a server reject the changes of all models


@dataclasses.dataclass(frozen=True)
class Answer:
    label: str
    began: float
    ended: float
    version: int
    value: float


@dataclasses.dataclass
class Load:
    """Callers in threads. Half of them ask for `stable`, half for the newest version."""

    model: str
    channel: grpc.Channel
    answers: list[Answer] = dataclasses.field(default_factory=list)
    failures: list[grpc.RpcError] = dataclasses.field(default_factory=list)
    stopped: bool = False

    def call(self, label: str) -> None:
        predict = self.channel.unary_unary(
            wire.PREDICT,
            response_deserializer=wire.PredictResponse.FromString,
        )
        request = codec.encode_predict_request(self.model, "serving_default", ROW, label or None)
        while not self.stopped:
            began = time.monotonic()
            try:
                response = predict(request, timeout=30)
            except grpc.RpcError as error:
                self.failures.append(error)
                continue
            value = float(codec.decode_outputs(response)["probabilities"][0, 0])
            version = response.model_spec.version.value
            self.answers.append(Answer(label, began, time.monotonic(), version, value))


@dataclasses.dataclass(frozen=True)
class Move:
    """A version became the answer for a label, at some moment between these two times."""

    label: str
    version: int
    began: float
    seen: float


@pytest.mark.parametrize(
    ("model", "calls"), [("short", 500), pytest.param("long", 10_000, marks=pytest.mark.soak)]
)
def test_no_call_fails_or_gets_a_wrong_version_while_versions_change(
    server: RunningServer, model: str, calls: int
) -> None:
    moves = [Move("stable", 1, 0.0, 0.0), Move("", 1, 0.0, 0.0)]

    def move(label: str, version: int, change: Callable[[], object]) -> None:
        began = time.monotonic()
        change()
        wait_until(lambda: server.answering_version(model, label=label) == version)
        moves.append(Move(label, version, began, time.monotonic()))

    load = Load(model, server.channel)
    callers = [threading.Thread(target=load.call, args=(label,)) for label in ["stable", ""] * (CALLERS // 2)]
    for caller in callers:
        caller.start()
    try:
        for version in (2, 3):
            move("", version, functools.partial(server.publish, model, version))
            move("stable", version, functools.partial(server.promote, model, version))
        for version in (2, 3, 2):
            move("stable", version, functools.partial(server.roll_back, model))
        deadline = time.monotonic() + 120
        while len(load.answers) < calls and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        load.stopped = True
        for caller in callers:
            caller.join()
    assert not load.failures
    assert len(load.answers) >= calls
    assert {answer.version for answer in load.answers} == {1, 2, 3}
    for answer in load.answers:
        assert answer.value == answer.version  # each version answers its own number
        assert answer.version in live_versions(moves, answer), answer


def live_versions(moves: list[Move], answer: Answer) -> set[int]:
    """Return the versions that may have answered a call: those live at some moment while it ran."""
    of_label = [move for move in moves if move.label == answer.label]
    ends = [*(move.seen for move in of_label[1:]), float("inf")]
    return {
        move.version
        for move, end in zip(of_label, ends, strict=True)
        if move.began <= answer.ended and end >= answer.began
    }
