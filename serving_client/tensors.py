"""Arrays ↔ the bytes of TensorProto, copied as seldom as can be. Nothing here does I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving_client import errors, wire

_DTYPES: dict[wire.DataType, tuple[str, np.dtype[Any]]] = {
    wire.DataType.DT_FLOAT: ("float_val", np.dtype(np.float32)),
    wire.DataType.DT_DOUBLE: ("double_val", np.dtype(np.float64)),
    wire.DataType.DT_INT32: ("int_val", np.dtype(np.int32)),
    wire.DataType.DT_UINT8: ("int_val", np.dtype(np.uint8)),
    wire.DataType.DT_INT64: ("int64_val", np.dtype(np.int64)),
    wire.DataType.DT_BOOL: ("bool_val", np.dtype(np.bool_)),
}
_DATA_TYPES = {dtype: data_type for data_type, (_, dtype) in _DTYPES.items()}


def entry(name: str, value: npt.NDArray[Any] | Sequence[bytes]) -> list[bytes | memoryview]:
    """Return the bytes of one entry of PredictRequest.inputs, in pieces.

    Args:
      value: a numeric array, or bytes for a string input (N,).
    Raises:
      InvalidRequest: the array's dtype is none that the client sends.

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
    field = _length_prefix(wire.PredictRequest.INPUTS_FIELD_NUMBER, len(key) + length)
    return [field, key, head] + ([content] if content is not None else [])


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


def array(name: str, tensor: wire.TensorProto) -> npt.NDArray[Any]:
    """Return a tensor of the response: numeric as an array, strings as an array of dtype object (bytes).

    Raises:
      ServerError: it has a dtype that the client does not know, or another length than its shape.
    """
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
