"""The gRPC server: TensorFlow Serving's two services and the standard health service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from local_server import handlers
from local_server.metrics import Metrics
from local_server.models import Models
from local_server.statuses import StatusError, unexpected_errors_as_internal

_Response = TypeVar("_Response")

# The service names for which TensorFlow Serving answers health checks.
_HEALTH_SERVICES = ("", "ModelService", "PredictionService")


def build_server(
    models: Models,
    address: str,
    max_threads: int,
    *,
    metrics: Metrics | None = None,
    health_service: bool = True,
    options: Sequence[tuple[str, int | str]] = (),
    tls: grpc.ServerCredentials | None = None,
) -> tuple[grpc.Server, int]:
    """Create a server that is bound to its port but not started.

    Args:
      models: to serve.
      address: HOST:PORT; port 0 picks a free port.
      max_threads: the most concurrent calls; more get RESOURCE_EXHAUSTED.
      metrics: records Predict calls.
      health_service: whether to serve grpc.health.v1 too.
      options: further gRPC channel arguments.
      tls: None serves without TLS.
    Returns:
      The server and its port.
    Raises:
      RuntimeError: the address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_threads),
        options=[
            # TensorFlow Serving's limits. A batch of float32 images soon exceeds gRPC's default of 4 MiB.
            ("grpc.max_receive_message_length", 2**31 - 1),
            ("grpc.max_send_message_length", -1),
            # By default a second server can bind the same port and silently takes half of the calls.
            ("grpc.so_reuseport", 0),
            *options,
        ],
        maximum_concurrent_rpcs=max_threads,
    )
    port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(models, metrics or Metrics(models.is_configured)), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
    if health_service:
        servicer = health.HealthServicer()
        for name in _HEALTH_SERVICES:
            servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server, port


def _answer(handle: Callable[[], _Response], context: grpc.ServicerContext) -> _Response:
    """Return the result of `handle`, or end the call with the status of the StatusError that it raises."""
    try:
        with unexpected_errors_as_internal():
            return handle()
    except StatusError as error:
        context.abort(error.code, error.message)
    raise AssertionError("context.abort raises")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]  # untyped base
    """Implements Predict and GetModelMetadata. The other methods answer UNIMPLEMENTED."""

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run one signature of one version."""
        started = time.monotonic()
        try:
            return _answer(lambda: handlers.predict(self._models, request), context)
        finally:
            code = context.code() or grpc.StatusCode.OK
            seconds = time.monotonic() - started
            self._metrics.record(request.model_spec.name, "GRPC", code.name, seconds)

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures of one version."""
        return _answer(lambda: handlers.metadata(self._models, request), context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]  # untyped base
    """Implements GetModelStatus. HandleReloadConfigRequest answers UNIMPLEMENTED."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the state of one version, or of all versions."""
        return _answer(lambda: handlers.status(self._models, request), context)
