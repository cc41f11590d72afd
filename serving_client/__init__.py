"""A small gRPC client for image classifiers on TensorFlow Serving. It never imports TensorFlow."""

from serving_client.aio import AsyncClient
from serving_client.client import Client
from serving_client.connection import Metadata, Tls
from serving_client.errors import (
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    ModelNotFound,
    ServerError,
    ServerUnavailable,
    ServingError,
)
from serving_client.model_card import ModelCard
from serving_client.predictions import Outputs, Prediction, Score, VersionStatus
from serving_client.preprocessing import ImageInput, InputSpec, preprocess, preprocess_input
from serving_client.protocol import Call, Result, Via

__all__ = [
    "AsyncClient",
    "Call",
    "Client",
    "DeadlineExceeded",
    "ImageError",
    "ImageInput",
    "InputSpec",
    "InvalidRequest",
    "Metadata",
    "ModelCard",
    "ModelNotFound",
    "Outputs",
    "Prediction",
    "Result",
    "Score",
    "ServerError",
    "ServerUnavailable",
    "ServingError",
    "Tls",
    "VersionStatus",
    "Via",
    "preprocess",
    "preprocess_input",
]
