"""A small gRPC client for image classifiers on TensorFlow Serving. It never imports TensorFlow."""

from serving_client.aio import AsyncClient
from serving_client.channel import Tls
from serving_client.client import Client
from serving_client.codec import Prediction, Score, VersionStatus
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
from serving_client.preprocessing import ImageInput, InputSpec, preprocess_input

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "ImageError",
    "ImageInput",
    "InputSpec",
    "InvalidRequest",
    "ModelCard",
    "ModelNotFound",
    "Prediction",
    "Score",
    "ServerError",
    "ServerUnavailable",
    "ServingError",
    "Tls",
    "VersionStatus",
    "preprocess_input",
]
