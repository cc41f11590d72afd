"""The inputs of a model that has no card: their names, dtypes and shapes, from its SavedModel's signature."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from serving_client import tensors, wire
from serving_client.errors import InvalidRequest, ServerError

METADATA_FIELD = "signature_def"


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input.

    Attributes:
      dtype: of numpy; object for strings; None if the client does not send this type.
      shape: None for a side of any size; None in place of the tuple for any shape.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None

    def accepts(self, value: npt.NDArray[Any]) -> bool:
        """Whether an array has this dtype and fits this shape."""
        fits = self.shape is None or (
            value.ndim == len(self.shape)
            and all(size in (None, given) for size, given in zip(self.shape, value.shape, strict=True))
        )
        return value.dtype == self.dtype and fits

    def __str__(self) -> str:
        shape = "of any shape" if self.shape is None else str(self.shape).replace("None", "N")
        return f"{'string' if self.dtype == object else self.dtype} {shape}"


Signature = Mapping[str, TensorSpec]
"""The inputs of a signature by name."""


def decode_metadata_response(response: bytes, name: str) -> Signature:
    """Return a signature's inputs from a GetModelMetadataResponse.

    Raises:
      ServerError: the bytes are not such a message.
      InvalidRequest: the model has no signature of this name.
    """
    try:
        metadata = wire.GetModelMetadataResponse.FromString(response).metadata
        signatures = wire.SignatureDefMap.FromString(metadata[METADATA_FIELD].value).signature_def
    except DecodeError as error:
        raise ServerError(
            f"The answer must be a GetModelMetadataResponse. Received: {len(response)} bytes that cannot be "
            "decoded. Check that the address is TensorFlow Serving's gRPC port."
        ) from error
    if name not in signatures:
        raise InvalidRequest(
            f"predict() calls the signature {name!r}. The model's signatures are: "
            f"{', '.join(sorted(signatures)) or 'none'}. Export it with one of that name."
        )
    return {
        alias: TensorSpec(tensors.numpy_dtype(info.dtype), _shape(info.tensor_shape))
        for alias, info in signatures[name].inputs.items()
    }


def check_inputs(inputs: Mapping[str, npt.NDArray[Any]], signature: Signature) -> None:
    """Raise InvalidRequest unless there is an array of the right dtype and shape for each input.

    TensorFlow Serving does not compare shapes, and with batching a wrong one fails other callers' requests.
    """
    if set(inputs) != set(signature):
        raise InvalidRequest(
            f"The model's inputs are: {_list(signature)}. Received: {', '.join(sorted(inputs)) or 'none'}."
        )
    for name, spec in signature.items():
        value = inputs[name]
        if not isinstance(value, np.ndarray):
            raise InvalidRequest(f"Input {name!r} must be a numpy array. Received: {type(value).__name__}.")
        if not spec.accepts(value) or 0 in value.shape[:1]:
            raise InvalidRequest(
                f"Input {name!r} must be {spec}, with N at least 1. Received: {value.dtype} {value.shape}."
            )


def _list(signature: Signature) -> str:
    return ", ".join(f"{name} ({spec})" for name, spec in sorted(signature.items()))


def _shape(shape: wire.TensorShapeProto) -> tuple[int | None, ...] | None:
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
