"""Arrays → request, response → arrays and predictions, gRPC status → error. Nothing here does I/O."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from serving_client import errors, wire
from serving_client.card import ModelCard
from serving_client.preprocessing import InputSpec

_Message = TypeVar("_Message", bound=Message)

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
        parts += _entry(name, value)
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


def _entry(name: str, value: npt.NDArray[Any] | Sequence[bytes]) -> list[bytes | memoryview]:
    """Return the bytes of one entry of PredictRequest.inputs, in pieces.

    A message would hold two copies of an array, and writing it makes a third: 34 MB each for 32 images of
    299 pixels. So what is before an array's bytes is written here, and they follow as they are.
    """
    tensor, content = _tensor(name, value)
    head = tensor.SerializeToString()
    if content is not None:
        head += _length_prefix(wire.TensorProto.TENSOR_CONTENT_FIELD_NUMBER, content.nbytes)
    key = name.encode()
    key = _length_prefix(1, len(key)) + key
    length = len(head) + (content.nbytes if content is not None else 0)
    key += _length_prefix(2, length)
    entry = _length_prefix(wire.PredictRequest.INPUTS_FIELD_NUMBER, len(key) + length)
    return [entry, key, head] + ([content] if content is not None else [])


def _tensor(
    name: str, value: npt.NDArray[Any] | Sequence[bytes]
) -> tuple[wire.TensorProto, memoryview | None]:
    """Return the message without an array's bytes, and those."""
    if not isinstance(value, np.ndarray):
        tensor = wire.TensorProto(dtype=wire.DataType.DT_STRING, string_val=value)
        tensor.tensor_shape.dim.add(size=len(value))
        return tensor, None
    if value.dtype not in _DATA_TYPES:
        raise errors.InvalidRequest(
            f"Input {name!r} must have one of the dtypes {', '.join(map(str, _DATA_TYPES))}. "
            f"Received: {value.dtype}."
        )
    tensor = wire.TensorProto(dtype=_DATA_TYPES[value.dtype])
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor, np.ascontiguousarray(value).data


def _length_prefix(field_number: int, length: int) -> bytes:
    """Return what Protocol Buffers write before a field that is a string, bytes or a message.

    Source: https://protobuf.dev/programming-guides/encoding/, "Length-Delimited Records".
    """
    prefix = bytearray([field_number << 3 | 2])
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


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
