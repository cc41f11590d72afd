"""TensorFlow Serving's JSON format for tensors: JSON body to PredictRequest, PredictResponse to JSON body.

Source: https://www.tensorflow.org/tfx/serving/api_rest, tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from local_server.statuses import invalid_argument

_BYTES_SUFFIX = "_bytes"


def parse(body: bytes) -> dict[str, Any]:
    """Parse the body of a predict request.

    Raises:
      StatusError: INVALID_ARGUMENT, as in all functions of this module.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(value, dict):
        raise invalid_argument("JSON Value must be an object")
    if not isinstance(value.get("signature_name", ""), str):
        raise invalid_argument("JSON Value: 'signature_name' key must be a string value.")
    if ("instances" in value) == ("inputs" in value):
        raise invalid_argument("JSON Value must have one of 'instances' and 'inputs'")
    return value


def set_inputs(
    request: predict_pb2.PredictRequest,
    value: Mapping[str, Any],
    inputs: Mapping[str, meta_graph_pb2.TensorInfo],
) -> None:
    """Set the inputs of a request to the tensors of a parsed body.

    Args:
      request: changed in place.
      value: the result of `parse`. "instances" is a list of rows, "inputs" holds one column per input.
      inputs: the signature's inputs. If there is only one, the body may leave out its name.
    """
    columns = value["inputs"] if "inputs" in value else _columns(value["instances"])
    if not isinstance(columns, dict) or set(columns) == {"b64"}:
        if len(inputs) != 1:
            raise invalid_argument("JSON Value must name the inputs, because the signature has more than one")
        columns = {next(iter(inputs)): columns}
    for name, column in columns.items():
        if name not in inputs:
            raise invalid_argument(f"JSON object: does not have named input: {name}")
        request.inputs[name].CopyFrom(_tensor(column, inputs[name].dtype))


def _columns(instances: object) -> object:
    """Return a column per input name; rows without names are the one column already."""
    if not isinstance(instances, list) or not instances:
        raise invalid_argument("JSON Value: 'instances' must be a non-empty list")
    first = instances[0]
    if not isinstance(first, dict) or set(first) == {"b64"}:
        return instances
    if not all(isinstance(row, dict) and set(row) == set(first) for row in instances):
        raise invalid_argument("JSON Value: all 'instances' must name the same inputs")
    return {name: [row[name] for row in instances] for name in first}


def _tensor(column: object, data_type: int) -> tensor_pb2.TensorProto:
    dtype = tf.as_dtype(data_type)
    try:
        if dtype == tf.string:
            return tf.make_tensor_proto(_decoded(column), dtype)
        array = np.array(column)
        if array.dtype.kind not in "biuf":
            raise ValueError("the lists differ in length, or hold values that are not numbers")
        return tf.make_tensor_proto(array.astype(dtype.as_numpy_dtype))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise invalid_argument(f"JSON Value is not of expected type: {dtype.name}: {error}") from error


def _decoded(value: object) -> object:
    """Turn strings into UTF-8 bytes and {"b64": ...} objects into the bytes they encode, in lists too."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise invalid_argument("Unable to base64 decode") from error
    raise TypeError(f"Received {type(value).__name__}")


def to_body(response: predict_pb2.PredictResponse, by_row: bool) -> bytes:
    """Return a response as JSON.

    Args:
      response: of the model.
      by_row: True for a request with "instances", answered with "predictions"; False for "outputs".
    """
    outputs = {
        name: _values(name, tf.make_ndarray(tensor)) for name, tensor in sorted(response.outputs.items())
    }
    if not by_row:
        return _dump({"outputs": _unnamed(outputs)})
    if len({len(column) for column in outputs.values()}) > 1:
        raise invalid_argument("Tensors do not have the same batch size")
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return _dump({"predictions": [_unnamed(row) for row in rows]})


def _unnamed(values: dict[str, Any]) -> object:
    return next(iter(values.values())) if len(values) == 1 else values


def _values(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        # Via text, a float32 becomes the shortest decimal that reads back as the same float32.
        return (array.astype(np.str_).astype(np.float64) if array.dtype == np.float32 else array).tolist()
    if name.endswith(_BYTES_SUFFIX):
        texts = [{"b64": base64.b64encode(item).decode()} for item in array.ravel()]
    else:
        texts = [item.decode(errors="replace") for item in array.ravel()]
    return np.array(texts, object).reshape(array.shape).tolist()


def _dump(value: object) -> bytes:
    return json.dumps(value, indent=4).encode()
