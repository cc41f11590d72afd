"""The files that tensorflow_model_server is configured with: models, batching, monitoring, TLS."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.wire import configuration_pb2

_Message = TypeVar("_Message", bound=Message)

METRICS_PATH = "/monitoring/prometheus/metrics"


class ConfigurationError(Exception):
    """A file cannot be used; one line that says why."""


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are put together; the defaults are TensorFlow Serving's.

    Attributes:
      max_batch_size: rows of a batch.
      batch_timeout_s: how long a batch that is not full waits for more, once a thread is free.
      max_enqueued_batches: of one signature of one version; what comes then is refused.
      num_batch_threads: batches that are worked on at the same time.
      allowed_batch_sizes: rising; a batch is filled up to the next of them. Empty: any.

    Source: tensorflow/core/kernels/batching_util/shared_batch_scheduler.h.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigurationError unless the numbers go together."""
        sizes = self.allowed_batch_sizes
        if min(self.max_batch_size, self.max_enqueued_batches, self.num_batch_threads) < 1:
            raise ConfigurationError("max_batch_size and the other numbers must be at least 1.")
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size):
            raise ConfigurationError(
                f"allowed_batch_sizes must rise and end with max_batch_size. Received: {list(sizes)} and "
                f"{self.max_batch_size}."
            )


def read_models(path: Path) -> ModelServerConfig:
    """Read what --model_config_file takes.

    Raises:
      ConfigurationError: it cannot be read, or names no models.
    """
    config = _read(path, ModelServerConfig())
    models = config.model_config_list.config
    names = [model.name for model in models]
    if not models or not all(model.name and model.base_path for model in models):
        raise ConfigurationError(f"{path} must name models, each with name and base_path.")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{path} must name each model once. Received: {', '.join(names)}.")
    return config


def of_one_model(name: str, base_path: Path) -> ModelServerConfig:
    """Return the configuration that --model_name and --model_base_path stand for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=str(base_path))
    return config


def read_batching(path: Path) -> BatchingParameters:
    """Read what --batching_parameters_file takes.

    Raises:
      ConfigurationError: it cannot be read, or its numbers do not go together.
    """
    message = _read(path, configuration_pb2.BatchingParameters())
    given = {
        name: getattr(message, name).value
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads")
        if message.HasField(name)
    }
    try:
        return BatchingParameters(
            batch_timeout_s=message.batch_timeout_micros.value / 1e6,
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            **given,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def read_metrics_path(path: Path) -> str | None:
    """Read what --monitoring_config_file takes; return the URL path of the metrics, None: there are none.

    Raises:
      ConfigurationError: it cannot be read.
    """
    prometheus = _read(path, configuration_pb2.MonitoringConfig()).prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None


def read_tls(path: Path) -> grpc.ServerCredentials:
    """Read what --ssl_config_file takes; with `client_verify`, callers need a certificate of `custom_ca`.

    Raises:
      ConfigurationError: it cannot be read, or lacks a key or certificate.
    """
    message = _read(path, configuration_pb2.SSLConfig())
    if not (message.server_key and message.server_cert) or (message.client_verify and not message.custom_ca):
        raise ConfigurationError(
            f"{path} must have server_key and server_cert, and custom_ca with client_verify, as PEM."
        )
    return grpc.ssl_server_credentials(
        [(message.server_key.encode(), message.server_cert.encode())],
        root_certificates=message.custom_ca.encode() or None,
        require_client_auth=message.client_verify,
    )


def _read(path: Path, message: _Message) -> _Message:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigurationError(f"{path} must be a {type(message).__name__} as text: {reason}.") from error
