"""One loaded version: a SavedModel in a session, as TensorFlow Serving runs it.

TensorFlow Serving uses a session instead of `tf.saved_model.load`. Using one here too gives the same
graph and the same kernels, so results and error messages are the same.

Source: the messages about a request's inputs and outputs are those of
tensorflow_serving/servables/tensorflow/predict_util.cc and tensorflow/cc/saved_model/util.cc.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from local_server import warmup
from local_server.batching import BatchScheduler, SignatureCall
from local_server.statuses import (
    StatusError,
    code_from_tensorflow,
    failed_precondition,
    invalid_argument,
)

_DEFAULT_SIGNATURE = "serving_default"
# A tensor may claim a shape far larger than its data. No message holds more than this.
_MAX_TENSOR_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded. The defaults are TensorFlow Serving's.

    Attributes:
      tags: of the MetaGraphDef to load.
      warm_up_iterations: how often each request of the warm-up file is sent; 0 for no warm-up.
      session: threads and GPU memory; None lets TensorFlow choose.
    """

    tags: tuple[str, ...] = (tf.saved_model.SERVING,)
    warm_up_iterations: int = 1
    session: config_pb2.ConfigProto | None = None


class Servable:
    """A loaded version that answers Predict. Thread-safe."""

    def __init__(
        self,
        name: str,
        version: int,
        directory: Path,
        scheduler: BatchScheduler | None = None,
        options: LoadOptions | None = None,
    ) -> None:
        """Load the SavedModel and replay its warm-up requests.

        Args:
          name: of the model.
          version: number of the version.
          directory: of the SavedModel.
          scheduler: batches requests; None runs each request alone.
          options: None has TensorFlow Serving's defaults.
        Raises:
          tf.errors.OpError, OSError, ValueError, RuntimeError: the SavedModel is missing, damaged or
            incomplete.
          WarmupError: a warm-up request failed, or the file cannot be read.
        """
        options = options or LoadOptions()
        self.name = name
        self.version = version
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=options.session)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, options.tags, str(directory))
        self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
        calls = {
            key: self._callable(signature)
            for key, signature in self.signatures.items()
            if signature.method_name == tf.saved_model.PREDICT_METHOD_NAME
        }
        self._calls = {key: scheduler.queue(call) for key, call in calls.items()} if scheduler else calls
        self.warmup_requests = warmup.replay(directory, self.predict, options.warm_up_iterations)

    def _callable(self, signature: meta_graph_pb2.SignatureDef) -> SignatureCall:
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[alias].name for alias in sorted(signature.inputs)],
            fetch=[signature.outputs[alias].name for alias in sorted(signature.outputs)],
        )
        # The public make_callable checks shapes in Python. In TensorFlow Serving the kernels check them.
        call: SignatureCall = self._session._make_callable_from_options(options)
        return call

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Run one signature.

        Raises:
          StatusError: the request does not match the signature, or a kernel rejected its inputs.
        """
        key = request.model_spec.signature_name or _DEFAULT_SIGNATURE
        if key not in self.signatures:
            raise failed_precondition(f'Serving signature key "{key}" not found.')
        if key not in self._calls:
            raise StatusError(
                grpc.StatusCode.INTERNAL,
                "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
                "tensorflow/serving/classify, tensorflow/serving/regress}. "
                f"Was: {self.signatures[key].method_name}",
            )
        signature = self.signatures[key]
        inputs = _parse_inputs(signature, request.inputs)
        wanted = _wanted_outputs(signature, request.output_filter)
        try:
            values = self._calls[key](*inputs)
        except tf.errors.OpError as error:
            raise StatusError(code_from_tensorflow(error.error_code), error.message) from error
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = key
        for alias, value in zip(sorted(signature.outputs), values, strict=True):
            if alias in wanted:
                response.outputs[alias].CopyFrom(_to_proto(value))
        return response


def _parse_inputs(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, tensor_pb2.TensorProto]
) -> list[np.ndarray]:
    """Return the inputs as arrays, sorted by alias. Raise StatusError if names or dtypes do not match."""
    _check_input_names(signature, inputs)
    parsed = []
    for index, alias in enumerate(sorted(signature.inputs)):
        value = _from_proto(alias, inputs[alias])
        expected = signature.inputs[alias].dtype
        if inputs[alias].dtype != expected:
            raise invalid_argument(
                f"Expects arg[{index}] to be {_dtype_name(expected)} but "
                f"{_dtype_name(inputs[alias].dtype)} is provided"
            )
        parsed.append(value)
    return parsed


def _check_input_names(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, tensor_pb2.TensorProto]
) -> None:
    sent, expected = set(inputs), set(signature.inputs)
    if len(sent) != len(expected):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_braced(sent)}) != "
            f"len({_braced(expected)}). Sent extra: {_braced(sent - expected)}. "
            f"Missing but required: {_braced(expected - sent)}."
        )
    for alias in sorted(expected - sent):
        raise invalid_argument(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in "
            "request and no default value provided. Inputs expected to be in the request "
            f"{_braced(sent)}, or default input alias set: "
        )


def _wanted_outputs(signature: meta_graph_pb2.SignatureDef, output_filter: Iterable[str]) -> set[str]:
    wanted: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braced(signature.outputs)}."
            )
        if alias in wanted:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        wanted.add(alias)
    return wanted or set(signature.outputs)


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _dtype_name(number: int) -> str:
    """Return the C++ name of a dtype, as TensorFlow's messages have it."""
    name: str = tf.as_dtype(number).name
    return {"float32": "float", "float64": "double", "float16": "half"}.get(name, name)


def _from_proto(alias: str, tensor: tensor_pb2.TensorProto) -> np.ndarray:
    try:
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        if min(sizes, default=0) < 0 or tensor.tensor_shape.unknown_rank:
            raise ValueError("the shape is not fully known")
        if math.prod(sizes) * tf.as_dtype(tensor.dtype).size > _MAX_TENSOR_BYTES:
            raise ValueError("the shape is larger than any message")
        value: np.ndarray = tf.make_ndarray(tensor)
        return value
    except (ValueError, TypeError, KeyError, MemoryError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def _to_proto(value: np.ndarray) -> tensor_pb2.TensorProto:
    """Encode an array as TensorFlow Serving does by default: float32 values in `float_val`."""
    value = np.asarray(value)
    if value.dtype != np.float32:
        return tf.make_tensor_proto(value)
    tensor = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum)
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(value.ravel())
    return tensor
