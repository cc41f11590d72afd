"""The answers to each kind of request, whether it came over gRPC (services.py) or HTTP (rest.py)."""

from __future__ import annotations

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from local_server.models import Models
from local_server.statuses import invalid_argument


def predict(models: Models, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Run one signature of one version.

    Raises:
      StatusError: with TensorFlow Serving's code and message, as in all functions of this module.
    """
    _check_model_spec(request)
    return models.find(request.model_spec).predict(request)


def metadata(
    models: Models, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Return the signatures of one version."""
    _check_model_spec(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            # TensorFlow Serving concatenates the two and leaves the "%s" in.
            raise invalid_argument(f"Metadata field %s is not supported{field}")
    servable = models.find(request.model_spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, signature in servable.signatures.items():
        signatures.signature_def[key].CopyFrom(signature)
    response.metadata["signature_def"].Pack(signatures)
    return response


def status(
    models: Models, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Return the state of one version, or of all versions."""
    _check_model_spec(request)
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in models.states(request.model_spec).items():
        version_status = response.model_version_status.add(version=version, state=state.state)
        version_status.status.error_code = state.error_code
        version_status.status.error_message = state.error_message
    return response


def _check_model_spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
