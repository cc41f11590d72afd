"""Arrays → request, response → arrays and predictions, gRPC status → error. Nothing here does I/O."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from serving_client import errors, wire
from serving_client.card import ModelCard
from serving_client.preprocessing import InputSpec

_DTYPES: dict[wire.DataType, tuple[str, np.dtype[Any]]] = {
    wire.DataType.DT_FLOAT: ("float_val", np.dtype(np.float32)),
    wire.DataType.DT_DOUBLE: ("double_val", np.dtype(np.float64)),
    wire.DataType.DT_INT32: ("int_val", np.dtype(np.int32)),
    wire.DataType.DT_UINT8: ("int_val", np.dtype(np.uint8)),
    wire.DataType.DT_INT64: ("int64_val", np.dtype(np.int64)),
    wire.DataType.DT_BOOL: ("bool_val", np.dtype(np.bool_)),
}
_DATA_TYPES = {dtype: data_type for data_type, (_, dtype) in _DTYPES.items()}


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
) -> wire.PredictRequest:
    """Build a request from numeric arrays, and from sequences of bytes for string inputs (N,).

    Args:
      version: its number, or a label that the server has for one; None: the newest.
    Raises:
      InvalidRequest: an array's dtype is none that the client sends.
    """
    request = wire.PredictRequest(model_spec=wire.ModelSpec(name=model, signature_name=signature))
    if isinstance(version, str):
        request.model_spec.version_label = version
    elif version is not None:
        request.model_spec.version.value = version
    for name, value in inputs.items():
        _fill_tensor(request.inputs[name], name, value)
    return request


def _fill_tensor(tensor: wire.TensorProto, name: str, value: npt.NDArray[Any] | Sequence[bytes]) -> None:
    if not isinstance(value, np.ndarray):
        tensor.dtype = wire.DataType.DT_STRING
        tensor.tensor_shape.dim.add(size=len(value))
        tensor.string_val.extend(value)
        return
    if value.dtype not in _DATA_TYPES:
        raise errors.InvalidRequest(
            f"Input {name!r} must have one of the dtypes {', '.join(map(str, _DATA_TYPES))}. "
            f"Received: {value.dtype}."
        )
    tensor.dtype = _DATA_TYPES[value.dtype]
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = value.tobytes()


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


def outputs_of(response: wire.PredictResponse) -> dict[str, npt.NDArray[Any]]:
    """Return the response's tensors: numeric as arrays, strings as arrays of dtype object (bytes).

    Raises:
      ServerError: a tensor of a dtype that the client does not know, or of another length than its shape.
    """
    return {name: _array(name, tensor) for name, tensor in response.outputs.items()}


def _array(name: str, tensor: wire.TensorProto) -> npt.NDArray[Any]:
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    try:
        if tensor.dtype == wire.DataType.DT_STRING:
            return np.array(tensor.string_val, dtype=object).reshape(shape)
        field, dtype = _DTYPES[tensor.dtype]
        if tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
        values = np.array(getattr(tensor, field), dtype)
        # A tensor whose last values are equal may carry them once (tensor.proto).
        missing = math.prod(shape) - values.size
        return np.pad(values, (0, missing), mode="edge").reshape(shape)
    except (KeyError, ValueError) as error:
        raise errors.ServerError(
            f"Output {name!r} cannot be read: dtype {tensor.dtype}, shape {shape} ({error})."
        ) from error


def predictions(probabilities: npt.NDArray[Any], card: ModelCard, top_k: int) -> list[Prediction]:
    """Pick the most probable labels of each row.

    Args:
      probabilities: float32 (N, K), K labels in the card's order.
    Raises:
      ServerError: the rows are not as long as the card's labels.
      ImageError: an image has no probabilities.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(card.labels):
        raise errors.ServerError(
            f"The answer must be (N, {len(card.labels)}), one probability a label. Received: "
            f"{probabilities.shape}."
        )
    for row in np.flatnonzero(~np.isfinite(probabilities).all(axis=1)):
        # What the exported graph answers for bytes that it cannot decode, among others that it can.
        raise errors.ImageError(
            f"Image {row + 1} of {len(probabilities)} in a request: the model cannot decode it, and gave no "
            "probabilities. Save it as PNG."
        )
    # Stable, so that equal probabilities come in the order of the labels.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(tuple(Score(card.labels[k], float(row[k])) for k in best), card.version)
        for row, best in zip(probabilities, order, strict=True)
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
        "Raise the timeout or send fewer images at once.",
    ),
}


def error_from(code: grpc.StatusCode, details: str, server: str, model: str) -> errors.ServingError:
    """Return the error for a call's status: the one place where a status becomes an exception."""
    kind, advice = _BY_STATUS.get(code, (errors.ServerError, "Look into the server's log."))
    said = " ".join(details.split()) or "no details"
    return kind(f"{server}, model {model!r}: {code.name}: {said} {advice}")
