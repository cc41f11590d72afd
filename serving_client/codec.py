"""Inputs → request, response → outputs and predictions, gRPC status → error. Nothing here does I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from serving_client import errors, tensors, wire
from serving_client.card import ModelCard
from serving_client.preprocessing import InputSpec

_Message = TypeVar("_Message", bound=Message)


@dataclasses.dataclass(frozen=True)
class Score:
    """One label and its probability, from 0 to 1."""

    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
      scores: the top_k classes, most probable first.
      version: number of the model version that answered.
    """

    scores: tuple[Score, ...]
    version: int

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.scores[0].label

    @property
    def probability(self) -> float:
        """Its probability, from 0 to 1."""
        return self.scores[0].probability


def predict_request(
    model: str,
    signature: str,
    inputs: Mapping[str, npt.NDArray[Any] | Sequence[bytes]],
    version: int | str | None = None,
) -> bytes:
    """Build a PredictRequest from numeric arrays, and from sequences of bytes for string inputs (N,).

    Args:
      version: its number, or a label that the server has for one; None: the newest.
    Returns:
      The request as it goes over the wire.
    Raises:
      InvalidRequest: an array's dtype is none that the client sends.
    """
    request = wire.PredictRequest(model_spec=_model_spec(model, version))
    request.model_spec.signature_name = signature
    parts: list[bytes | memoryview] = [request.SerializeToString()]
    for name, value in inputs.items():
        parts += tensors.entry(name, value)
    return b"".join(parts)


def status_request(model: str, version: int | str | None) -> bytes:
    """Build a GetModelStatusRequest; None asks for all versions."""
    return wire.GetModelStatusRequest(model_spec=_model_spec(model, version)).SerializeToString()


def _model_spec(model: str, version: int | str | None) -> wire.ModelSpec:
    spec = wire.ModelSpec(name=model)
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version
    return spec


def check_images(images: npt.NDArray[Any], spec: InputSpec) -> None:
    """Raise InvalidRequest unless the array is float32 (N, height_px, width_px, 3) with N at least 1.

    TensorFlow Serving does not check: a wrong size passes silently through convolutions and pooling,
    a wrong dtype or shape fails every request in the same batch, and 0 rows hang.
    """
    if not isinstance(images, np.ndarray):
        raise errors.InvalidRequest(f"images must be a numpy array. Received: {type(images).__name__}.")
    if images.dtype != np.float32 or images.shape[1:] != spec.shape or images.ndim != 4 or not len(images):
        expected = ", ".join(map(str, spec.shape))
        raise errors.InvalidRequest(
            f"The model takes float32 (N, {expected}) with N at least 1. Received: {images.dtype} "
            f"{images.shape}. Use classify() for pictures of any size."
        )


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What a server says of one version.

    Attributes:
      state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
      error: why it could not be loaded; empty: nothing failed.
    """

    version: int
    state: str
    error: str


def status_of(response: bytes) -> list[VersionStatus]:
    """Read a GetModelStatusResponse; newest version first.

    Raises:
      ServerError: it is none.
    """
    read = _read(wire.GetModelStatusResponse, response)
    found = [
        VersionStatus(one.version, wire.ModelVersionStatus.State.Name(one.state), one.status.error_message)
        for one in read.model_version_status
    ]
    return sorted(found, key=lambda one: -one.version)


def response_of(response: bytes) -> wire.PredictResponse:
    """Read a PredictResponse.

    Raises:
      ServerError: it is none.
    """
    return _read(wire.PredictResponse, response)


def _read(kind: type[_Message], response: bytes) -> _Message:
    try:
        return kind.FromString(response)
    except DecodeError as error:
        raise errors.ServerError(
            f"The answer is no {kind.__name__}. Is that TensorFlow Serving's gRPC port?"
        ) from error


def outputs_of(response: wire.PredictResponse) -> dict[str, npt.NDArray[Any]]:
    """Return the response's tensors: numeric as arrays, strings as arrays of dtype object (bytes).

    Raises:
      ServerError: a tensor of a dtype that the client does not know, or of another length than its shape.
    """
    return {name: tensors.array(name, tensor) for name, tensor in response.outputs.items()}


def predictions(
    probabilities: npt.NDArray[Any], card: ModelCard, top_k: int
) -> list[Prediction | errors.ImageError]:
    """Pick the most probable labels of each row.

    Args:
      probabilities: float32 (N, K), K labels in the card's order.
    Returns:
      For each row its prediction, or an error where the model could not decode the image.
    Raises:
      ServerError: the rows are not as long as the card's labels.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(card.labels):
        raise errors.ServerError(
            f"The answer must be (N, {len(card.labels)}), one probability a label. Received: "
            f"{probabilities.shape}."
        )
    # Stable, so that equal probabilities come in the order of the labels.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    # NaN is what the exported graph answers for bytes that it cannot decode, among others that it can.
    answered = np.isfinite(probabilities).all(axis=1)
    return [
        Prediction(tuple(Score(card.labels[k], float(row[k])) for k in best), card.version)
        if is_answered
        else errors.ImageError("The model cannot decode the image. Save it as PNG.")
        for row, best, is_answered in zip(probabilities, order, answered, strict=True)
    ]


_BY_STATUS: dict[grpc.StatusCode, tuple[type[errors.ServingError], str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (errors.InvalidRequest, "Compare the input with describe()."),
    grpc.StatusCode.FAILED_PRECONDITION: (
        errors.InvalidRequest,
        "Was this model published by `python -m trainer`?",
    ),
    grpc.StatusCode.NOT_FOUND: (errors.ModelNotFound, "Check the model's name and that a version is ready."),
    grpc.StatusCode.UNAVAILABLE: (
        errors.ServerUnavailable,
        "Check the address and that the server is running.",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        errors.ServerUnavailable,
        "The server is overloaded or the message too large: send less at once.",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        errors.DeadlineExceeded,
        "Check that the server can be reached; raise the timeout, or send fewer images at once.",
    ),
}


def error_from(code: grpc.StatusCode, details: str, server: str, model: str) -> errors.ServingError:
    """Return the error for a call's status: the one place where a status becomes an exception."""
    kind, advice = _BY_STATUS.get(code, (errors.ServerError, "Look into the server's log."))
    said = " ".join(details.split()).rstrip(".") or "no details"
    return kind(f"{server}, model {model!r}: {code.name}: {said}. {advice}")
