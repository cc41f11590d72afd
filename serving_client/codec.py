"""Encode requests and decode responses. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from serving_client import errors, signatures, tensors, wire
from serving_client.predictions import VersionStatus
from serving_client.preprocessing import InputSpec

_Message = TypeVar("_Message", bound=Message)


def encode_predict_request(
    model: str,
    signature: str,
    inputs: Mapping[str, npt.NDArray[Any] | Sequence[bytes]],
    version: int | str | None = None,
) -> bytes:
    """Encode a PredictRequest.

    Args:
      inputs: a numeric array, or a sequence of bytes for a string input (N,), per input name.
      version: a version number, or a label that the server assigns to a version; None asks the newest.
    Raises:
      InvalidRequest: the client does not send arrays of this dtype.
    """
    request = wire.PredictRequest(model_spec=_model_spec(model, version))
    request.model_spec.signature_name = signature
    parts: list[bytes | memoryview] = [request.SerializeToString()]
    for name, value in inputs.items():
        parts += tensors.encode_input(name, value)
    return b"".join(parts)


def encode_status_request(model: str, version: int | str | None) -> bytes:
    """Encode a GetModelStatusRequest; version None asks for all versions."""
    return wire.GetModelStatusRequest(model_spec=_model_spec(model, version)).SerializeToString()


def encode_metadata_request(model: str, version: int | str | None) -> bytes:
    """Encode a GetModelMetadataRequest for the model's signatures."""
    return wire.GetModelMetadataRequest(
        model_spec=_model_spec(model, version), metadata_field=[signatures.METADATA_FIELD]
    ).SerializeToString()


def _model_spec(model: str, version: int | str | None) -> wire.ModelSpec:
    spec = wire.ModelSpec(name=model)
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version
    return spec


def check_images(images: npt.NDArray[Any], spec: InputSpec) -> None:
    """Raise InvalidRequest unless the array is float32 (N, height_px, width_px, 3) with N at least 1.

    TensorFlow Serving does not check this. A wrong size passes silently through convolutions and pooling, a
    wrong dtype or shape fails every request in the same batch, and a request with 0 rows hangs.
    """
    if not isinstance(images, np.ndarray):
        raise errors.InvalidRequest(f"images must be a numpy array. Received: {type(images).__name__}.")
    if images.dtype != np.float32 or images.shape[1:] != spec.shape or images.ndim != 4 or not len(images):
        expected = ", ".join(map(str, spec.shape))
        raise errors.InvalidRequest(
            f"The model takes float32 (N, {expected}) with N at least 1. Received: {images.dtype} "
            f"{images.shape}. Use classify() for images of any size."
        )


def decode_status_response(response: bytes) -> list[VersionStatus]:
    """Decode a GetModelStatusResponse; the newest version comes first.

    Raises:
      ServerError: the bytes are not such a message.
    """
    decoded = _decode(wire.GetModelStatusResponse, response)
    statuses = [
        VersionStatus(one.version, wire.ModelVersionStatus.State.Name(one.state), one.status.error_message)
        for one in decoded.model_version_status
    ]
    return sorted(statuses, key=lambda status: -status.version)


def decode_predict_response(response: bytes) -> wire.PredictResponse:
    """Decode a PredictResponse.

    Raises:
      ServerError: the bytes are not such a message.
    """
    return _decode(wire.PredictResponse, response)


def _decode(kind: type[_Message], response: bytes) -> _Message:
    try:
        return kind.FromString(response)
    except DecodeError as error:
        raise errors.ServerError(
            f"The answer must be a {kind.__name__}. Received: {len(response)} bytes that cannot be decoded. "
            "Check that the address is TensorFlow Serving's gRPC port."
        ) from error


def decode_outputs(response: wire.PredictResponse) -> dict[str, npt.NDArray[Any]]:
    """Return the response's tensors by name; strings become bytes in arrays of dtype object.

    Raises:
      ServerError: a tensor has an unknown dtype, or its values do not fit its shape.
    """
    return {name: tensors.decode_tensor(name, tensor) for name, tensor in response.outputs.items()}


def model_id(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the identity that an answer carries; empty for versions that were exported before 0.2.0.

    Raises:
      ServerError: the rows name different models.
    """
    names = {bytes(name) for name in outputs["model_id"].ravel()} if "model_id" in outputs else {b""}
    if len(names) != 1:
        raise errors.ServerError(
            f"All rows of an answer must name the same model. Received: {len(names)} different model_ids. "
            "See the server's log."
        )
    return names.pop().decode(errors="replace")
