"""Which card an answer is read with, step by step, without servers."""

from __future__ import annotations

import json
from typing import Any

import grpc
import numpy as np
import pytest

from serving_client import wire
from serving_client.calls import Call, Pause, Steps
from serving_client.errors import DeadlineExceeded, InvalidRequest, ModelNotFound, ServerError, ServingError
from serving_client.predictions import Outputs, Prediction
from serving_client.protocol import Protocol
from tests.serving_client.fake_model_server import card, set_text

PICTURE = np.full((4, 4, 3), 200, np.uint8)


class Version:
    """Answers label 0 of its own order with 0.75."""

    def __init__(self, model_id: str, labels: list[str], *, number: int = 1, size_px: int = 8) -> None:
        self.model_id, self.number, self.size_px = model_id, number, size_px
        self.card: dict[str, Any] = {**card(size_px), "model_id": model_id, "labels": labels}
        if not model_id:
            del self.card["model_id"]

    def answer(self, request: bytes) -> bytes:
        asked = wire.PredictRequest.FromString(request)
        if asked.model_spec.version.value not in (0, self.number):
            raise ModelNotFound("Servable not found")
        response = wire.PredictResponse()
        response.model_spec.version.value = self.number
        if "query" in asked.inputs:
            set_text(response.outputs["card"], json.dumps(self.card))
            return response.SerializeToString()
        if asked.inputs["images"].tensor_shape.dim[1].size != self.size_px:
            raise InvalidRequest("Shape of tensor images is not compatible")
        if self.model_id:
            set_text(response.outputs["model_id"], self.model_id)
        probabilities = response.outputs["probabilities"]
        probabilities.dtype = wire.DataType.DT_FLOAT
        for size in (1, 2):
            probabilities.tensor_shape.dim.add(size=size)
        probabilities.float_val.extend([0.75, 0.25])
        return response.SerializeToString()


A = Version("a" * 16, ["fish", "tree"])
B = Version("b" * 16, ["tree", "fish"])


class Conversations:
    """Carries out steps: call n goes to server n of the list, the last one answers the rest."""

    def __init__(self, *servers: Version, pauses: int = 100) -> None:
        self.servers = list(servers)
        self.calls: list[Version] = []
        self.pauses = pauses

    def run(self, steps: Steps[Any]) -> Any:
        step: Call | Pause
        try:
            step = next(steps)
            while True:
                try:
                    response = self._take(step)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as done:
            return done.value

    def _take(self, step: Call | Pause) -> bytes:
        if isinstance(step, Pause):
            self.pauses -= 1
            if self.pauses < 0:
                raise DeadlineExceeded("no time is left")
            return b""
        server = self.servers.pop(0) if len(self.servers) > 1 else self.servers[0]
        self.calls.append(server)
        response = server.answer(step.request)
        if b"probabilities" in response:
            self.predicted_by = server
        return response


def label(*servers: Version, protocol: Protocol | None = None) -> str:
    protocol = protocol or Protocol("m", None)
    (result,) = Conversations(*servers).run(protocol.classify([PICTURE], 1, "images"))
    assert isinstance(result, Prediction)
    return result.label


def test_a_known_card_is_not_fetched_again() -> None:
    protocol, servers = Protocol("m", None), Conversations(A)
    for _ in range(3):
        servers.run(protocol.classify([PICTURE], 1, "images"))
    assert len(servers.calls) == 1 + 3


def test_a_new_model_under_the_same_number_is_read_with_its_own_labels() -> None:
    protocol = Protocol("m", None)
    assert [label(A, protocol=protocol), label(B, protocol=protocol), label(A, protocol=protocol)] == [
        "fish",
        "tree",
        "fish",
    ]


@pytest.mark.parametrize("order", range(2**6))
def test_whoever_answers_each_call_the_label_is_right(order: int) -> None:
    """The first six calls of a new client go to either server, in every order; the seventh's stays."""
    servers = [(A, B)[order >> call & 1] for call in range(6)]
    conversations = Conversations(*servers)
    (result,) = conversations.run(Protocol("m", None).classify([PICTURE], 1, "images"))
    assert result.label == conversations.predicted_by.card["labels"][0]


@pytest.mark.parametrize("order", range(2**6))
def test_servers_with_another_input_size_are_asked_in_their_own(order: int) -> None:
    larger = Version("c" * 16, ["fish", "tree"], number=3, size_px=12)
    servers = [(A, larger)[order >> call & 1] for call in range(6)]
    assert label(*servers) == "fish"


def test_an_identity_that_no_server_describes_fails_in_words() -> None:
    changing = Version("d" * 16, ["fish", "tree"])
    changing.card["model_id"] = "e" * 16
    steps = Protocol("m", None).classify([PICTURE], 1, "images")
    with pytest.raises(ServerError, match="model_id 'dddddddddddddddd'"):
        Conversations(changing, pauses=5).run(steps)


def test_a_version_without_identity_is_described_before_and_after_each_answer() -> None:
    old, other = Version("", ["fish", "tree"]), Version("", ["tree", "fish"])
    protocol = Protocol("m", None)
    assert label(old, protocol=protocol) == "fish"
    servers = Conversations(other)  # the server restarts with another model between two calls
    (result,) = servers.run(protocol.classify([PICTURE], 1, "images"))
    assert result.label == "tree"
    assert len(servers.calls) == 4  # an answer, another card; then an answer between two equal cards


def test_predict_returns_the_version_and_the_card_of_its_answer() -> None:
    row = np.zeros((1, 8, 8, 3), np.float32)
    outputs = Conversations(A).run(Protocol("m", None).predict(row))
    assert isinstance(outputs, Outputs)
    assert outputs.version == 1
    assert outputs.card is not None and outputs.card.labels == ("fish", "tree")
    assert dict(outputs)["probabilities"].tolist() == [[0.75, 0.25]]


def test_predict_finds_the_server_whose_input_fits() -> None:
    larger = Version("c" * 16, ["fish", "tree"], number=3, size_px=12)
    row = np.zeros((1, 8, 8, 3), np.float32)
    outputs = Conversations(larger, larger, A).run(Protocol("m", None).predict(row))
    assert outputs.card.model_id == A.model_id


def test_predict_refuses_tensors_that_fit_no_version() -> None:
    steps = Protocol("m", None).predict(np.zeros((1, 9, 9, 3), np.float32))
    with pytest.raises(InvalidRequest, match=r"8, 8, 3.*9, 9, 3"):
        Conversations(A).run(steps)


def test_a_model_without_a_card_is_refused_by_classify() -> None:
    class Foreign(Version):
        def answer(self, request: bytes) -> bytes:
            raise InvalidRequest("no signature", code=grpc.StatusCode.FAILED_PRECONDITION)

    with pytest.raises(InvalidRequest, match="no signature"):
        label(Foreign("", ["a", "b"]))
