"""What the server answers to each request, whichever way it came: gRPC (services.py) or HTTP (rest.py)."""

from __future__ import annotations

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from local_server.models import Models
from local_server.statuses import invalid_argument


def predict(models: Models, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Run one signature of one version.

    Raises:
      StatusError: with TensorFlow Serving's code and message; so do the others here.
    """
    _check_spec(request)
    return models.find(request.model_spec).predict(request)


def metadata(
    models: Models, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Return the signatures of one version."""
    _check_spec(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            # TensorFlow Serving joins the two as they are, "%s" and all.
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
    """Return the state of one version, or of all."""
    _check_spec(request)
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in models.states(request.model_spec).items():
        one = response.model_version_status.add(version=version, state=state.state)
        one.status.error_code = state.error_code
        one.status.error_message = state.error_message
    return response


def _check_spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
