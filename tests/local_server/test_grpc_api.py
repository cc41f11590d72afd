"""The gRPC API. The statuses of invalid requests are tested in test_both_servers.py."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from local_server.grpc_api import build_server
from local_server.models import Models
from tests.local_server.sample_requests import ROW, PredictCall, calls_of

GRPC_DEFAULT_LIMIT_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, unlimited) as channel:
        yield channel


@pytest.fixture(scope="module")
def predict(channel: grpc.Channel) -> PredictCall:
    return calls_of(channel)


def test_answers_with_names_shapes_and_the_version(predict: PredictCall) -> None:
    response = predict({"images": np.zeros((16, 32, 32, 3), np.float32)})
    assert {key: tf.make_ndarray(value).shape for key, value in response.outputs.items()} == {
        "logits": (16, 6),
        "model_id": (16,),
        "probabilities": (16, 6),
    }
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 1, "serving_default")


def test_describe_answers_one_card_per_row(predict: PredictCall) -> None:
    cards = tf.make_ndarray(predict({"query": [b"", b"x", b"y"]}, signature="describe").outputs["card"])
    assert cards.shape == (3,)
    assert len(set(cards)) == 1


def test_output_filter_selects_outputs(predict: PredictCall) -> None:
    assert list(predict({"images": ROW}, output_filter=["logits"]).outputs) == ["logits"]


def test_requests_and_responses_may_exceed_grpcs_default_limit(predict: PredictCall) -> None:
    queries = [b"x" * 1000] * 5000
    cards = predict({"query": queries}, signature="describe").outputs["card"]
    assert sum(map(len, queries)) > GRPC_DEFAULT_LIMIT_BYTES
    assert cards.ByteSize() > GRPC_DEFAULT_LIMIT_BYTES
    assert tf.make_ndarray(cards).shape == (5000,)


def test_metadata_lists_the_three_signatures(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    response = stub.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 1
    contract = {
        key: (set(signature.inputs), set(signature.outputs))
        for key, signature in signatures.signature_def.items()
        if not key.startswith("__")
    }
    assert contract == {
        "serving_default": ({"images"}, {"logits", "model_id", "probabilities"}),
        "encoded_images": ({"encoded"}, {"decoded", "logits", "model_id", "probabilities"}),
        "describe": ({"query"}, {"card"}),
    }
    images = signatures.signature_def["serving_default"].inputs["images"]
    assert [dim.size for dim in images.tensor_shape.dim] == [-1, 32, 32, 3]
    assert images.dtype == tf.float32.as_datatype_enum


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["zz"], "Metadata field %s is not supportedzz"),
    ],
)
def test_metadata_rejects_unknown_fields(channel: grpc.Channel, fields: list[str], message: str) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "tiny"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, message)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("nope", None, "Could not find any versions of model nope"),
        ("tiny", 77, "Could not find version 77 of model tiny"),
    ],
)
def test_status_of_unknown_models_and_versions_is_not_found(
    channel: grpc.Channel, name: str, version: int | None, message: str
) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    with pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, message)


def test_health_answers_under_tensorflow_servings_names(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "ModelService", "PredictionService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        unknown = health_pb2.HealthCheckRequest(service="tensorflow.serving.PredictionService")
        health.Check(unknown, timeout=30)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_an_unexpected_error_is_internal_without_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("/a/path/of/this/machine")

    models = Models()
    monkeypatch.setattr(models, "find", fail)
    server, port = build_server(models, "localhost:0", max_threads=1)
    server.start()
    try:
        with grpc.insecure_channel(f"localhost:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            calls_of(channel)({"images": ROW})
    finally:
        server.stop(None).wait()
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in caught.value.details()
    assert "/a/path" not in caught.value.details()
