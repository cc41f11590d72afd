"""TensorFlow Serving's two gRPC services, and the standard health service beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from local_server.servable import Servable
from local_server.statuses import StatusError, invalid_argument, not_found
from local_server.versions import ModelVersions

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

# The names under which TensorFlow Serving answers health checks.
_HEALTH_SERVICES = ("", "ModelService", "PredictionService")

_log = logging.getLogger(__name__)


def build_server(
    model: ModelVersions, address: str, max_threads: int, health_service: bool = True
) -> tuple[grpc.Server, int]:
    """Bind, but do not start, a server for one model.

    Args:
      address: HOST:PORT; port 0 takes a free one.
      max_threads: calls that are worked on at the same time.
      health_service: answer grpc.health.v1 too.
    Returns:
      The server and its port.
    Raises:
      RuntimeError: the address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_threads),
        options=[
            # As TensorFlow Serving's: a batch of float32 images passes gRPC's 4 MiB at once.
            ("grpc.max_receive_message_length", 2**31 - 1),
            ("grpc.max_send_message_length", -1),
            # Without this a second server on the same port takes half of the calls, unseen.
            ("grpc.so_reuseport", 0),
        ],
    )
    port = server.add_insecure_port(address)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(model), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(model), server)
    if health_service:
        servicer = health.HealthServicer()
        for name in _HEALTH_SERVICES:
            servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server, port


def _answer(
    handle: Callable[[_Request], _Response], request: _Request, context: grpc.ServicerContext
) -> _Response:
    """Turn a StatusError into the call's status: the one place where that happens."""
    try:
        return handle(request)
    except StatusError as error:
        context.abort(error.code, error.message)
    except Exception as error:
        _log.exception("a call failed")
        context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__} in the local server; see its log.")
    raise AssertionError("context.abort raises")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]  # untyped base
    """Predict and GetModelMetadata; the other methods answer UNIMPLEMENTED."""

    def __init__(self, model: ModelVersions) -> None:
        self._model = model

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run one signature of one version."""
        return _answer(self._predict, request, context)

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures of one version."""
        return _answer(self._metadata, request, context)

    def _predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        _check_spec(request)
        return _servable(self._model, request.model_spec).predict(request)

    def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        _check_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                # TensorFlow Serving joins the two as they are, "%s" and all.
                raise invalid_argument(f"Metadata field %s is not supported{field}")
        servable = _servable(self._model, request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, signature in servable.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]  # untyped base
    """GetModelStatus; HandleReloadConfigRequest answers UNIMPLEMENTED."""

    def __init__(self, model: ModelVersions) -> None:
        self._model = model

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the state of one version, or of all."""
        return _answer(self._status, request, context)

    def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        states = self._model.states() if spec.name == self._model.name else {}
        if spec.HasField("version"):
            states = {version: state for version, state in states.items() if version == spec.version.value}
            if not states:
                raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")
        if not states:
            raise not_found(f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in states.items():
            status = response.model_version_status.add(version=version, state=state.state)
            status.status.error_code = state.error_code
            status.status.error_message = state.error_message
        return response


def _check_spec(
    request: predict_pb2.PredictRequest | get_model_metadata_pb2.GetModelMetadataRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _servable(model: ModelVersions, spec: model_pb2.ModelSpec) -> Servable:
    """Find what a ModelSpec names; one model, and no labels here.

    Raises:
      StatusError: NOT_FOUND or INVALID_ARGUMENT.
    """
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    if spec.version_label:
        raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
    version = spec.version.value if spec.HasField("version") else None
    if spec.name != model.name:
        request = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
        raise not_found(f"Servable not found for request: {request}")
    return model.find(version)
