"""Replay the requests of a version's warm-up file before the version answers callers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

_FILE = Path("assets.extra", "tf_serving_warmup_requests")
# Source: WarmupConsts in tensorflow_serving/servables/tensorflow/saved_model_warmup_util.h.
_MAX_RECORDS = 1000


class WarmupError(Exception):
    """The warm-up file cannot be read, or one of its requests failed."""


def replay(
    version: Path, predict: Callable[[predict_pb2.PredictRequest], object], iterations: int = 1
) -> int:
    """Send each request of a version's warm-up file; return their number, 0 without a file.

    Args:
      version: directory of the version.
      predict: answers one request.
      iterations: how often each request is sent; 0 does not even read the file.
    Raises:
      WarmupError: a request failed, or the file cannot be read. The version must not be served then, as in
        TensorFlow Serving.
    """
    file = version / _FILE
    count = 0
    if iterations and file.exists():
        for count, record in enumerate(_records(file), start=1):
            if count > _MAX_RECORDS:
                raise WarmupError(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {file}")
            if record.WhichOneof("log_type") != "predict_log":
                raise WarmupError(f"{file}: record {count} must be a predict_log")
            try:
                for _ in range(iterations):
                    predict(record.predict_log.request)
            except Exception as error:
                raise WarmupError(f"{file}: record {count}: {error}") from error
    return count


def _records(file: Path) -> list[prediction_log_pb2.PredictionLog]:
    try:
        raw = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
        return [prediction_log_pb2.PredictionLog.FromString(record) for record in raw]
    except Exception as error:
        raise WarmupError(f"{file} cannot be read: {error}") from error
