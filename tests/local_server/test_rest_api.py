"""TensorFlow Serving's REST API: https://www.tensorflow.org/tfx/serving/api_rest."""

import base64
import http.client
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from local_server import configuration
from local_server.metrics import Metrics
from local_server.models import Models
from local_server.rest_api import RestServer
from trainer import run

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def rest(published: run.Published) -> Iterator[RestServer]:
    models = Models()
    config = configuration.single_model("tiny", published.path.parent)
    config.model_config_list.config[0].version_labels["stable"] = 1
    models.configure(configuration.single_model("tiny", published.path.parent))
    models.poll()
    models.configure(config)
    metrics = Metrics(models.is_configured)
    server = RestServer(models, ("localhost", 0), 4, metrics, configuration.METRICS_PATH)
    server.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(rest: RestServer) -> Iterator[Ask]:
    connection = http.client.HTTPConnection("localhost", rest.server_port, timeout=60)

    def call(method: str, path: str, body: object = None) -> tuple[int, Any]:
        content = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
        connection.request(method, path, content)
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if path.startswith("/v1") else text.decode()

    yield call
    connection.close()


@pytest.fixture
def row() -> list[Any]:
    return list(np.random.default_rng(0).uniform(-1, 1, (32, 32, 3)).round(3).tolist())


@pytest.fixture
def picture(image_tree: Path) -> str:
    return base64.b64encode(next(image_tree.rglob("*.jpg")).read_bytes()).decode()


@pytest.mark.parametrize("where", ["", "/versions/1", "/labels/stable"])
def test_predict_by_row_and_by_column_answer_the_same(ask: Ask, row: list[Any], where: str) -> None:
    path = f"/v1/models/tiny{where}:predict"
    status, by_row = ask("POST", path, {"instances": [row, row]})
    assert status == 200
    assert [set(row) for row in by_row["predictions"]] == [{"logits", "model_id", "probabilities"}] * 2
    status, by_column = ask("POST", path, {"inputs": {"images": [row, row]}})
    assert status == 200
    assert by_column["outputs"]["logits"] == [row["logits"] for row in by_row["predictions"]]
    assert sum(by_row["predictions"][0]["probabilities"]) == pytest.approx(1)


def test_images_are_sent_in_base64(ask: Ask, picture: str) -> None:
    encoded = {"b64": picture}
    for body in (
        {"signature_name": "encoded_images", "instances": [encoded]},
        {"signature_name": "encoded_images", "instances": [{"encoded": encoded}]},
    ):
        status, answer = ask("POST", "/v1/models/tiny:predict", body)
        assert status == 200
        assert len(answer["predictions"][0]["probabilities"]) == 6


def test_a_string_output_is_returned_as_text(ask: Ask) -> None:
    body = {"signature_name": "describe", "instances": ["card"]}
    status, answer = ask("POST", "/v1/models/tiny:predict", body)
    assert status == 200
    assert json.loads(answer["predictions"][0])["name"] == "tiny"


def test_status_and_metadata(ask: Ask) -> None:
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/1", "/v1/models/tiny/labels/stable"):
        status, answer = ask("GET", path)
        assert status == 200
        assert answer == {
            "model_version_status": [
                {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        }
    status, answer = ask("GET", "/v1/models/tiny/metadata")
    assert status == 200
    assert answer["model_spec"]["version"] == "1"
    assert set(answer["metadata"]["signature_def"]["signature_def"]) >= {"serving_default", "describe"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/v1/models/nope", None, 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/tiny/versions/7", None, 404, "Could not find version 7 of model tiny"),
        ("GET", "/v1/models/tiny/labels/x", None, 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/nothing", None, 400, "Malformed request: GET /v1/nothing"),
        ("POST", "/v1/models/tiny", {}, 400, "Malformed request: POST /v1/models/tiny"),
        ("POST", "/v1/models/tiny:predict", b"{", 400, "JSON Parse error"),
        ("POST", "/v1/models/tiny:predict", [], 400, "JSON Value must be an object"),
        ("POST", "/v1/models/tiny:predict", {}, 400, "must have one of 'instances' and 'inputs'"),
        ("POST", "/v1/models/tiny:predict", {"instances": []}, 400, "'instances'"),
        ("POST", "/v1/models/tiny:predict", {"instances": [[1], [1, 2]]}, 400, "not of expected type"),
        ("POST", "/v1/models/tiny:predict", {"instances": ["text"]}, 400, "not of expected type"),
        ("POST", "/v1/models/tiny:predict", {"inputs": {"q": [1]}}, 400, "does not have named input: q"),
        (
            "POST",
            "/v1/models/tiny:predict",
            {"signature_name": "nosig", "instances": [1]},
            400,
            'Serving signature name: "nosig" not found in signature def',
        ),
        (
            "POST",
            "/v1/models/tiny:predict",
            {"signature_name": "encoded_images", "instances": [{"b64": "!"}]},
            400,
            "Unable to base64 decode",
        ),
        (
            "POST",
            "/v1/models/tiny:predict",
            {"signature_name": "encoded_images", "instances": [{"b64": "AAAA"}]},
            400,
            "Unknown image file format",
        ),
        ("POST", "/v1/models/nope:predict", {"instances": [1]}, 404, "Servable not found for request"),
        (
            "POST",
            "/v1/models/tiny/versions/99999999999999999999:predict",
            {"instances": [1]},
            400,
            "Failed to convert version",
        ),
    ],
)
def test_rejects_with_tensorflow_servings_status(
    ask: Ask, method: str, path: str, body: object, status: int, message: str
) -> None:
    got, answer = ask(method, path, body)
    assert got == status
    assert message in answer["error"]
    assert ask("GET", "/v1/models/tiny")[0] == 200  # the connection and the server still work


@pytest.mark.parametrize("length", [None, "ten", str(2**28 + 1)])
def test_a_body_of_unknown_or_excessive_length_is_rejected_unread(
    rest: RestServer, length: str | None
) -> None:
    connection = http.client.HTTPConnection("localhost", rest.server_port, timeout=60)
    connection.putrequest("POST", "/v1/models/tiny:predict")
    if length:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 400
    assert response.getheader("Connection") == "close"
    assert str(length) in json.load(response)["error"]
    connection.close()


def test_an_unexpected_error_is_500_and_the_server_still_works(
    rest: RestServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("/a/path/of/this/machine")

    with monkeypatch.context() as context:
        context.setattr(rest.models, "states", fail)
        status, answer = ask("GET", "/v1/models/tiny")
    assert status == 500
    assert "ZeroDivisionError" in answer["error"]
    assert "/a/path" not in answer["error"]
    assert ask("GET", "/v1/models/tiny")[0] == 200


def test_metrics_count_calls_under_tensorflow_servings_names(ask: Ask, row: list[Any]) -> None:
    def count(status: str) -> float:
        text = ask("GET", "/monitoring/prometheus/metrics")[1]
        line = rf'^:tensorflow:serving:request_count{{model_name="tiny",status="{status}"}} (\S+)$'
        found = re.search(line, text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    ok, bad = count("OK"), count("INVALID_ARGUMENT")
    ask("POST", "/v1/models/tiny:predict", {"instances": [row]})
    ask("POST", "/v1/models/tiny:predict", {})
    ask("POST", "/v1/models/nope:predict", {"instances": [row]})
    assert (count("OK"), count("INVALID_ARGUMENT")) == (ok + 1, bad + 1)
    text = ask("GET", "/monitoring/prometheus/metrics")[1]
    labels = 'API="predict",entrypoint="REST",model_name="tiny"'
    assert f":tensorflow:serving:request_latency_count{{{labels}}}" in text
    assert ':tensorflow:serving:request_latency_bucket{API="predict",entrypoint="REST",le="10.0"' in text
    assert "nope" not in text  # names that callers make up would create any number of time series


def test_more_concurrent_calls_than_threads_are_rejected(rest: RestServer, ask: Ask) -> None:
    for _ in range(4):
        assert rest.call_slots.acquire(blocking=False)
    try:
        status, answer = ask("GET", "/v1/models/tiny")
        assert (status, answer["error"]) == (429, "Server Threadpool Exhausted")
    finally:
        for _ in range(4):
            rest.call_slots.release()
