"""Requests to a published version `tiny`, and TensorFlow Serving's answers to the invalid ones."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
ROW = np.zeros((1, 32, 32, 3), np.float32)

PredictCall = Callable[..., predict_pb2.PredictResponse]


def calls_of(channel: grpc.Channel) -> PredictCall:
    """Return a function that sends a Predict request, given inputs and the parts of a ModelSpec."""
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


def unparsable() -> object:
    proto = tf.make_tensor_proto(ROW)
    proto.tensor_content = proto.tensor_content[:-1]
    return proto


def claims_to_be_huge() -> object:
    proto = tf.make_tensor_proto(1.0)
    for _ in range(4):
        proto.tensor_shape.dim.add(size=2**20)
    return proto


VALID_JPEG = bytes(tf.io.encode_jpeg(np.zeros((40, 40, 3), np.uint8)).numpy())

# Inputs, the other parts of the request, and the status code and message that TensorFlow Serving answers.
STATUS_CASES = [
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
        "Outputs expected to be in the set {logits,model_id,probabilities}.",
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


# Inputs, the signature, and a part of the message, which TensorFlow's kernels write.
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
    pytest.param(
        {"encoded": [b"not an image"]}, "encoded_images", "Unknown image file format", id="not an image"
    ),
    pytest.param({"encoded": [b""]}, "encoded_images", "Input is empty", id="no bytes"),
    pytest.param(
        {"encoded": [VALID_JPEG[:200]]}, "encoded_images", "jpeg::Uncompress failed", id="truncated JPEG"
    ),
    pytest.param({"encoded": [b"bad", b"worse"]}, "encoded_images", "Unknown image file", id="none of two"),
]
