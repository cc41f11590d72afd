"""Versions of a model `m` that take milliseconds to write and to load, and calls to them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.conftest import tiny_saved_model


def publish(base_path: Path, version: int) -> None:
    """Add a version that answers its own number. It appears in one step, as the trainer's versions do."""
    tiny_saved_model(base_path / f".staging-{version}", float(version))
    (base_path / f".staging-{version}").rename(base_path / str(version))


def predict_request(version: int | None = None, rows: int = 1) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    if version is not None:
        request.model_spec.version.value = version
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.zeros((rows, 2), np.float32)))
    return request


def predict(
    stub: prediction_service_pb2_grpc.PredictionServiceStub, version: int | None = None, rows: int = 1
) -> tuple[float, int]:
    """Return the answer and the version that gave it."""
    response = stub.Predict(predict_request(version, rows), timeout=30)
    return float(tf.make_ndarray(response.outputs["probabilities"])[0, 0]), response.model_spec.version.value
