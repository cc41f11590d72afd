"""TensorFlow Serving's messages, as far as the client uses them. `make wire` generates the code."""

from serving_client.wire.serving_pb2 import (
    DataType,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    StatusProto,
    TensorProto,
    TensorShapeProto,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

__all__ = [
    "GET_MODEL_STATUS",
    "PREDICT",
    "DataType",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "ModelSpec",
    "ModelVersionStatus",
    "PredictRequest",
    "PredictResponse",
    "StatusProto",
    "TensorProto",
    "TensorShapeProto",
]
