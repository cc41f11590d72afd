"""Read tensorflow_model_server's configuration files: models, batching, monitoring, TLS, sessions."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.wire import configuration_pb2

_Message = TypeVar("_Message", bound=Message)

METRICS_PATH = "/monitoring/prometheus/metrics"


class ConfigurationError(Exception):
    """A configuration cannot be used. The message is one line that says why."""


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are batched. The defaults are TensorFlow Serving's.

    Attributes:
      max_batch_size: the most rows in a batch.
      batch_timeout_s: how long a batch that is not full waits for more rows.
      max_enqueued_batches: per signature and version; a full queue rejects further requests.
      num_batch_threads: the number of batches that run at the same time.
      allowed_batch_sizes: in ascending order; a batch is padded to the next larger size. Empty: no padding.

    Source: tensorflow/core/kernels/batching_util/shared_batch_scheduler.h.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigurationError unless the numbers are valid together."""
        sizes = self.allowed_batch_sizes
        if min(self.max_batch_size, self.max_enqueued_batches, self.num_batch_threads) < 1:
            raise ConfigurationError(
                "max_batch_size, max_enqueued_batches and num_batch_threads must be at least 1. Received: "
                f"{self.max_batch_size}, {self.max_enqueued_batches} and {self.num_batch_threads}."
            )
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size):
            raise ConfigurationError(
                "allowed_batch_sizes must be in ascending order and end with max_batch_size. Received: "
                f"allowed_batch_sizes={list(sizes)}, max_batch_size={self.max_batch_size}."
            )


def read_models(path: Path) -> ModelServerConfig:
    """Read the file of --model_config_file.

    Raises:
      ConfigurationError: the file cannot be read, lists no models, or lists a model twice.
    """
    config = _read(path, ModelServerConfig())
    models = config.model_config_list.config
    names = [model.name for model in models]
    if not models or not all(model.name and model.base_path for model in models):
        raise ConfigurationError(f"{path} must list at least one model, each with name and base_path.")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{path} must list each model once. Received: {', '.join(names)}.")
    return config


def single_model(name: str, base_path: Path) -> ModelServerConfig:
    """Return the configuration for --model_name and --model_base_path."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=str(base_path))
    return config


def read_batching(path: Path) -> BatchingParameters:
    """Read the file of --batching_parameters_file.

    Raises:
      ConfigurationError: the file cannot be read, or its numbers are not valid together.
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
    """Read the file of --monitoring_config_file; return the URL path of the metrics, None if disabled.

    Raises:
      ConfigurationError: the file cannot be read.
    """
    prometheus = _read(path, configuration_pb2.MonitoringConfig()).prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None


def read_tls(path: Path) -> grpc.ServerCredentials:
    """Read the file of --ssl_config_file.

    With `client_verify`, clients need a certificate that `custom_ca` signed.

    Raises:
      ConfigurationError: the file cannot be read, or a key or certificate is missing.
    """
    message = _read(path, configuration_pb2.SSLConfig())
    if not (message.server_key and message.server_cert) or (message.client_verify and not message.custom_ca):
        raise ConfigurationError(
            f"{path} must set server_key and server_cert, and with client_verify also custom_ca, as PEM."
        )
    return grpc.ssl_server_credentials(
        [(message.server_key.encode(), message.server_cert.encode())],
        root_certificates=message.custom_ca.encode() or None,
        require_client_auth=message.client_verify,
    )


def session(
    file: Path | None, threads: int, intra_op_threads: int, inter_op_threads: int, gpu_memory_fraction: float
) -> config_pb2.ConfigProto:
    """Return the session configuration of the flags --tensorflow_* and --per_process_gpu_memory_fraction.

    Args:
      file: with a ConfigProto that the other values change; None for an empty one.
      threads: for both kinds of parallelism; 0 changes nothing, as in the other values.
      intra_op_threads: that compute one operation.
      inter_op_threads: the most operations that run at the same time.
      gpu_memory_fraction: of each GPU's memory, up to 1.
    Raises:
      ConfigurationError: the file cannot be read, or all three numbers of threads are given.
    Source: BuildAndStart in tensorflow_serving/model_servers/server.cc.
    """
    if threads and intra_op_threads and inter_op_threads:
        raise ConfigurationError(
            "Give either --tensorflow_session_parallelism, or --tensorflow_intra_op_parallelism and "
            "--tensorflow_inter_op_parallelism. Received: all three."
        )
    if intra_op_threads or inter_op_threads:
        threads = 0
    config = _read(file, config_pb2.ConfigProto()) if file else config_pb2.ConfigProto()
    config.intra_op_parallelism_threads = intra_op_threads or threads or config.intra_op_parallelism_threads
    config.inter_op_parallelism_threads = inter_op_threads or threads or config.inter_op_parallelism_threads
    if gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = gpu_memory_fraction
    return config


def _read(path: Path, message: _Message) -> _Message:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigurationError(
            f"{path} must contain a {type(message).__name__} in text format: {reason}."
        ) from error
