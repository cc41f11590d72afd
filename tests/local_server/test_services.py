"""The status codes and messages are those that TensorFlow Serving gave to the same requests."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from trainer import run

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
ROW = np.zeros((1, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel


PredictCall = Callable[..., predict_pb2.PredictResponse]


@pytest.fixture(scope="module")
def predict(channel: grpc.Channel) -> PredictCall:
    return calls_of(channel)


def calls_of(channel: grpc.Channel) -> PredictCall:
    """Return a function that builds a request from inputs and the parts of a ModelSpec, and sends it."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call(
        inputs: dict[str, Any] | None = None,
        *,
        name: str | None = "tiny",
        signature: str = "",
        version: int | None = None,
        label: str = "",
        output_filter: list[str] | None = None,
    ) -> predict_pb2.PredictResponse:
        request = predict_pb2.PredictRequest(output_filter=output_filter or [])
        if name is not None:
            request.model_spec.name = name
            request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        for key, value in (inputs or {}).items():
            proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
            request.inputs[key].CopyFrom(proto)
        return stub.Predict(request, timeout=30)

    return call


def test_answers_with_names_shapes_and_the_version(
    predict: PredictCall,
) -> None:
    response = predict({"images": np.zeros((16, 32, 32, 3), np.float32)})
    assert {key: tf.make_ndarray(value).shape for key, value in response.outputs.items()} == {
        "logits": (16, 6),
        "probabilities": (16, 6),
    }
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 1, "serving_default")


def test_describe_answers_one_card_a_row(predict: PredictCall) -> None:
    cards = tf.make_ndarray(predict({"query": [b"", b"x", b"y"]}, signature="describe").outputs["card"])
    assert cards.shape == (3,)
    assert len(set(cards)) == 1


def test_output_filter_leaves_the_rest_out(predict: PredictCall) -> None:
    assert list(predict({"images": ROW}, output_filter=["logits"]).outputs) == ["logits"]


def unparsable() -> object:
    proto = tf.make_tensor_proto(ROW)
    proto.tensor_content = proto.tensor_content[:-1]
    return proto


def claims_to_be_huge() -> object:
    proto = tf.make_tensor_proto(1.0)
    for _ in range(4):
        proto.tensor_shape.dim.add(size=2**20)
    return proto


def jpeg(levels: np.ndarray) -> bytes:
    return bytes(tf.io.encode_jpeg(levels).numpy())


GOOD = jpeg(np.zeros((40, 40, 3), np.uint8))

CASES = [
    pytest.param({}, {"name": None}, INVALID, "Missing ModelSpec", id="no model spec"),
    pytest.param({}, {"name": ""}, INVALID, "ModelSpec has no name specified.", id="empty name"),
    pytest.param(
        {}, {"name": "nope"}, NOT_FOUND, "Servable not found for request: Latest(nope)", id="unknown model"
    ),
    pytest.param(
        {},
        {"name": "nope", "version": 1},
        NOT_FOUND,
        "Servable not found for request: Specific(nope, 1)",
        id="unknown both",
    ),
    pytest.param(
        {},
        {"version": 77},
        NOT_FOUND,
        "Servable not found for request: Specific(tiny, 77)",
        id="unknown version",
    ),
    pytest.param(
        {}, {"label": "stable"}, INVALID, "Unrecognized servable version label: stable", id="unknown label"
    ),
    pytest.param(
        {},
        {"signature": "nosig"},
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nosig" not found.',
        id="unknown signature",
    ),
    pytest.param(
        {},
        {},
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({images}). Sent extra: {}. "
        "Missing but required: {images}.",
        id="missing input",
    ),
    pytest.param(
        {"images": ROW, "q": ROW},
        {},
        INVALID,
        "input size does not match signature: 2!=1 len({images,q}) != len({images}). Sent extra: {q}. "
        "Missing but required: {}.",
        id="extra input",
    ),
    pytest.param(
        {"q": ROW},
        {},
        INVALID,
        "Signature input alias: images(feed name: serving_default_images:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {q}, or default input alias set: ",
        id="wrong input name",
    ),
    pytest.param(
        {"images": ROW.astype(np.int32)},
        {},
        INVALID,
        "Expects arg[0] to be float but int32 is provided",
        id="wrong dtype",
    ),
    pytest.param(
        {"images": "text"},
        {},
        INVALID,
        "Expects arg[0] to be float but string is provided",
        id="text for numbers",
    ),
    pytest.param(
        {"images": unparsable()}, {}, INVALID, "tensor parsing error: images", id="corrupt tensor_content"
    ),
    pytest.param(
        {"images": claims_to_be_huge()}, {}, INVALID, "tensor parsing error: images", id="huge shape"
    ),
    pytest.param(
        {"images": ROW},
        {"output_filter": ["zz"]},
        INVALID,
        "output tensor alias not found in signature: zz "
        "Outputs expected to be in the set {logits,probabilities}.",
        id="unknown output",
    ),
    pytest.param(
        {"images": ROW},
        {"output_filter": ["logits", "logits"]},
        INVALID,
        "duplicate output tensor alias: logits",
        id="output twice",
    ),
]


@pytest.mark.parametrize(("inputs", "options", "code", "message"), CASES)
def test_refuses_with_tensorflow_servings_status(
    predict: PredictCall,
    inputs: dict[str, Any],
    options: dict[str, Any],
    code: grpc.StatusCode,
    message: str,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(inputs, **options)
    assert caught.value.code() == code
    assert caught.value.details() == message


KERNEL_CASES = [
    pytest.param(
        {"images": np.zeros((1, 32, 32, 4), np.float32)}, "", "[1,32,32,4] is not comp", id="channels"
    ),
    pytest.param({"images": np.zeros((32, 32), np.float32)}, "", "[32,32] is not compatible", id="rank"),
    pytest.param({"images": 1.0}, "", "[] is not compatible", id="scalar"),
    pytest.param(
        {"images": np.zeros((1, 33, 32, 3), np.float32)}, "", "[1,33,32,3] is not comp", id="height"
    ),
    pytest.param({"images": ROW[:0]}, "", "{{node ", id="no rows"),
    pytest.param({"encoded": b"x"}, "encoded_images", "[] is not compatible", id="scalar bytes"),
    pytest.param({"encoded": [[b"x"]]}, "encoded_images", "[1,1] is not compatible", id="rows of bytes"),
    pytest.param({"encoded": [b"no image"]}, "encoded_images", "Unknown image file format", id="no image"),
    pytest.param({"encoded": [b""]}, "encoded_images", "Input is empty", id="no bytes"),
    pytest.param({"encoded": [GOOD[:200]]}, "encoded_images", "jpeg::Uncompress failed", id="truncated JPEG"),
    pytest.param({"encoded": [b"bad", b"worse"]}, "encoded_images", "Unknown image file", id="none of two"),
]


@pytest.mark.parametrize(("inputs", "signature", "message"), KERNEL_CASES)
def test_what_the_kernels_refuse_is_an_invalid_argument(
    predict: PredictCall,
    inputs: dict[str, Any],
    signature: str,
    message: str,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(inputs, signature=signature)
    assert caught.value.code() == INVALID
    assert message in caught.value.details()
    assert predict({"images": ROW}).outputs  # the server goes on


def test_a_batch_of_any_size_passes_grpcs_default_limit(
    predict: PredictCall,
) -> None:
    images = np.zeros((512, 32, 32, 3), np.float32)
    assert images.nbytes > 4 * 2**20
    assert tf.make_ndarray(predict({"images": images}).outputs["logits"]).shape == (512, 6)


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
        "serving_default": ({"images"}, {"logits", "probabilities"}),
        "encoded_images": ({"encoded"}, {"logits", "probabilities"}),
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
def test_metadata_refuses(channel: grpc.Channel, fields: list[str], message: str) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "tiny"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (INVALID, message)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("nope", None, "Could not find any versions of model nope"),
        ("tiny", 77, "Could not find version 77 of model tiny"),
    ],
)
def test_status_of_what_is_not_there(
    channel: grpc.Channel, name: str, version: int | None, message: str
) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    with pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (NOT_FOUND, message)


def test_the_served_answer_is_the_exported_graphs(predict: PredictCall, published: run.Published) -> None:
    images = np.random.default_rng(0).uniform(-120, 120, (4, 32, 32, 3)).astype(np.float32)
    direct = tf.saved_model.load(str(published.path)).signatures["serving_default"](
        images=tf.constant(images)
    )
    served = predict({"images": images})
    np.testing.assert_allclose(tf.make_ndarray(served.outputs["logits"]), direct["logits"], rtol=0, atol=1e-5)
