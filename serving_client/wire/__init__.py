"""TensorFlow Serving's messages, as far as the client speaks them (`make wire` generates the code)."""

from serving_client.wire.serving_pb2 import (
    DataType,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    TensorProto,
    TensorShapeProto,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"

__all__ = [
    "PREDICT",
    "DataType",
    "ModelSpec",
    "PredictRequest",
    "PredictResponse",
    "TensorProto",
    "TensorShapeProto",
]
