"""A string output of shape (N,) beside numbers, such as `model_id`: each caller gets its own rows."""

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from local_server import configuration
from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters
from local_server.grpc_api import build_server
from local_server.metrics import Metrics
from local_server.models import Models
from local_server.rest_api import RestServer
from local_server.servable import Servable
from tests.local_server.tiny_versions import predict_request

IDENTITY = "0123456789abcdef"
CALLERS = 12


class Identified(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """Answers each row's first number, as text too, and the same identity for every row."""

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="images")])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "probabilities": images[:, :1],
            "row": tf.strings.as_string(tf.cast(images[:, 0], tf.int32)),
            "model_id": tf.fill((tf.shape(images)[0],), IDENTITY),
        }


@pytest.fixture(params=["alone", "batching"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> Models:
    module = Identified()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.serve})
    scheduler = None
    if request.param == "batching":
        # The sizes make batches of several callers, some with rows of padding.
        scheduler = BatchScheduler(BatchingParameters(8, 0.1, 100, 2, (4, 8)))
    models = Models(partial(Servable, scheduler=scheduler))
    models.configure(configuration.single_model("m", tmp_path))
    models.poll()
    return models


def rows_of(caller: int) -> np.ndarray:
    """Return 1, 2 or 3 rows that no other caller sends."""
    return np.array([[10 * caller + row, 0] for row in range(1 + caller % 3)], np.float32)


@pytest.fixture
def stub(models: Models) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    server, port = build_server(models, "localhost:0", CALLERS)
    server.start()
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)
    server.stop(None).wait()


@pytest.fixture
def rest(models: Models) -> Iterator[RestServer]:
    server = RestServer(models, ("localhost", 0), CALLERS, Metrics(models.is_configured), None)
    server.start()
    yield server
    server.drain(5)


def test_each_grpc_caller_gets_the_text_of_its_own_rows(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> None:
    def ask(caller: int) -> dict[str, Any]:
        request = predict_request()
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(rows_of(caller)))
        outputs = stub.Predict(request, timeout=30).outputs
        assert outputs["model_id"].dtype == tf.string.as_datatype_enum
        return {name: tf.make_ndarray(value).tolist() for name, value in outputs.items()}

    with ThreadPoolExecutor(CALLERS) as pool:
        for caller, answer in enumerate(pool.map(ask, range(CALLERS))):
            numbers = rows_of(caller)[:, 0]
            assert answer == {
                "probabilities": [[number] for number in numbers],
                "row": [str(int(number)).encode() for number in numbers],
                "model_id": [IDENTITY.encode()] * len(numbers),
            }


def test_an_output_filter_can_leave_the_text_out_or_ask_for_it_alone(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> None:
    for name in ("model_id", "probabilities"):
        request = predict_request(rows=2)
        request.output_filter.append(name)
        assert list(stub.Predict(request, timeout=30).outputs) == [name]


@pytest.mark.parametrize("by_row", [True, False], ids=["row format", "column format"])
def test_each_rest_caller_gets_the_text_of_its_own_rows(rest: RestServer, by_row: bool) -> None:
    def ask(caller: int) -> Any:
        body = json.dumps({"instances" if by_row else "inputs": rows_of(caller).tolist()}).encode()
        url = f"http://localhost:{rest.server_port}/v1/models/m:predict"
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            return json.load(answer)

    with ThreadPoolExecutor(CALLERS) as pool:
        for caller, answer in enumerate(pool.map(ask, range(CALLERS))):
            numbers = rows_of(caller)[:, 0]
            if by_row:
                assert answer["predictions"] == [
                    {"probabilities": [number], "row": str(int(number)), "model_id": IDENTITY}
                    for number in numbers
                ]
            else:
                assert answer["outputs"] == {
                    "probabilities": [[number] for number in numbers],
                    "row": [str(int(number)) for number in numbers],
                    "model_id": [IDENTITY] * len(numbers),
                }
