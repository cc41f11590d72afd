"""Versions are published, promoted and rolled back under load, and no call notices."""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving_client import codec, wire
from tests.local_server.programs import running
from tests.local_server.test_both_servers import BATCHING, MODELS, PROGRAMS, until
from tests.local_server.test_predict import calls_of
from tests.local_server.test_versions import publish
from trainer import model_config
from trainer.config_store import ConfigFile

REQUESTS = 10_000
CALLERS = 16


@dataclasses.dataclass(frozen=True)
class Answer:
    label: str
    began: float
    ended: float
    version: int
    value: float


@dataclasses.dataclass
class Load:
    """Callers of which half asks for `stable` and half for the newest version."""

    channel: grpc.Channel
    answers: list[Answer] = dataclasses.field(default_factory=list)
    failures: list[grpc.RpcError] = dataclasses.field(default_factory=list)
    enough: bool = False

    def call(self, label: str) -> None:
        predict = self.channel.unary_unary(
            wire.PREDICT,
            response_deserializer=wire.PredictResponse.FromString,
        )
        inputs = {"images": np.zeros((1, 2), np.float32)}
        request = codec.predict_request("m", "serving_default", inputs, label or None)
        while not self.enough:
            began = time.monotonic()
            try:
                response = predict(request, timeout=30)
            except grpc.RpcError as error:
                self.failures.append(error)
                continue
            value = float(codec.outputs_of(response)["probabilities"][0, 0])
            version = response.model_spec.version.value
            self.answers.append(Answer(label, began, time.monotonic(), version, value))


@pytest.mark.parametrize("program", PROGRAMS)
def test_ten_thousand_calls_while_versions_come_are_promoted_and_rolled_back(
    program: str, tmp_path: Path
) -> None:
    base_path = tmp_path / "m"
    base_path.mkdir()
    publish(base_path, 1)
    config = tmp_path / "models.config"
    config.write_text(MODELS.format(base_path=base_path))
    batching = tmp_path / "batching.config"
    batching.write_text(BATCHING.format(largest=32, sizes="32").replace("20000", "1000"))
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
        "--grpc_max_threads=64",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
    ]
    store = ConfigFile(config)
    with running(program, tmp_path, flags) as address, grpc.insecure_channel(address) as channel:
        ask = calls_of(channel)
        load = Load(channel)
        labels = ["stable", ""] * (CALLERS // 2)
        callers = [threading.Thread(target=load.call, args=(label,)) for label in labels]
        for caller in callers:
            caller.start()

        row = {"images": np.zeros((1, 2), np.float32)}
        # When each version was live for each label: from before it can have been to after it was seen to be.
        moves: list[tuple[str, int, float, float]] = [("stable", 1, 0.0, 0.0), ("", 1, 0.0, 0.0)]

        def move(label: str, version: int, change: Callable[[], object]) -> None:
            began = time.monotonic()
            change()
            until(lambda: ask(row, name="m", label=label).model_spec.version.value == version)
            moves.append((label, version, began, time.monotonic()))

        for version in (2, 3):
            move("", version, functools.partial(publish, base_path, version))
            move("stable", version, functools.partial(store.edit, functools.partial(promoted, version)))
        for version in (2, 3, 2):
            move("stable", version, functools.partial(store.edit, rolled_back))
        deadline = time.monotonic() + 120
        while len(load.answers) < REQUESTS and time.monotonic() < deadline:
            time.sleep(0.1)
        load.enough = True
        for caller in callers:
            caller.join()
    assert not load.failures
    assert len(load.answers) >= REQUESTS
    assert {answer.version for answer in load.answers} == {1, 2, 3}
    for answer in load.answers:
        assert answer.value == answer.version  # a version answers its own number
        assert answer.version in live(moves, answer), answer


def promoted(version: int, text: str) -> str:
    return model_config.promote(text, "m", "stable", version, "the file")


def rolled_back(text: str) -> str:
    return model_config.roll_back(text, "m", "stable", "the file")[0]


def live(moves: list[tuple[str, int, float, float]], answer: Answer) -> set[int]:
    """Return the versions that may have answered a call: live at some moment between its two ends."""
    mine = [(version, began, seen) for label, version, began, seen in moves if label == answer.label]
    ends = [*(seen for _, _, seen in mine[1:]), float("inf")]
    return {
        version
        for (version, began, _), end in zip(mine, ends, strict=True)
        if began <= answer.ended and end >= answer.began
    }
