"""The warm-up file of a version: requests that TensorFlow Serving runs before it accepts calls.

A request that fails keeps the version from loading. So the file is also a second check of the export, made by
the server itself.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

WARMUP_FILE_NAME = "tf_serving_warmup_requests"
# Requests with one image each use this many different images. Larger batches repeat the smallest file.
_IMAGES = 8


def write_warmup_requests(
    extra: Path, name: str, inputs: np.ndarray, encoded: Sequence[bytes], largest_batch: int
) -> None:
    """Write assets.extra/tf_serving_warmup_requests.

    Args:
      extra: the directory assets.extra of a version.
      name: the model's name.
      inputs: float32 (N, H, W, 3), N at least 1: preprocessed images, for `serving_default`.
      encoded: bytes of image files, at least one, for `encoded_images`.
      largest_batch: each signature gets requests of 1, 2, 4, … rows up to this many. More than the server's
        batching parameters allow would keep the version from loading.
    """
    with tf.io.TFRecordWriter(str(extra / WARMUP_FILE_NAME)) as file:
        for signature, input_name, tensor in _requests(inputs, encoded, largest_batch):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            request.inputs[input_name].CopyFrom(tensor)
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            file.write(log.SerializeToString())


def warmup_batch_sizes(largest: int) -> list[int]:
    """Return 1, 2, 4, … and the largest."""
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes


def _requests(
    inputs: np.ndarray, encoded: Sequence[bytes], largest_batch: int
) -> Iterator[tuple[str, str, tensor_pb2.TensorProto]]:
    """Yield signature, input name and input of each request."""
    smallest = min(encoded, key=len)
    for image in encoded[:_IMAGES]:
        yield "encoded_images", "encoded", tf.make_tensor_proto([image])
    yield "serving_default", "images", tf.make_tensor_proto(inputs[:1])
    for size in warmup_batch_sizes(largest_batch):
        yield "encoded_images", "encoded", tf.make_tensor_proto([smallest] * size)
        yield "serving_default", "images", _zeros((size, *inputs.shape[1:]))
        yield "describe", "query", tf.make_tensor_proto([b"card"] * size)


def _zeros(shape: tuple[int, ...]) -> tensor_pb2.TensorProto:
    """Return zeros in a few bytes: a tensor repeats its last value to fill its shape (tensor.proto)."""
    return tensor_pb2.TensorProto(
        dtype=tf.float32.as_datatype_enum,
        tensor_shape=tf.TensorShape(shape).as_proto(),
        float_val=[0.0],
    )
