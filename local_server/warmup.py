"""Replay a version's warm-up file: it answers callers only after it has answered these requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

_FILE = Path("assets.extra", "tf_serving_warmup_requests")
# Source: WarmupConsts in tensorflow_serving/servables/tensorflow/saved_model_warmup_util.h.
_MOST_RECORDS = 1000


class WarmupError(Exception):
    """The file is no such file, or one of its requests fails; the version cannot be served."""


def replay(version: Path, predict: Callable[[predict_pb2.PredictRequest], object]) -> int:
    """Send each request of a version's file; return how many there were, 0 where there is no file.

    Raises:
      WarmupError: as TensorFlow Serving does not load such a version, neither is it loaded here.
    """
    file = version / _FILE
    count = 0
    if file.exists():
        for count, record in enumerate(_records(file), start=1):
            if count > _MOST_RECORDS:
                raise WarmupError(f"Number of warmup records exceeds the maximum ({_MOST_RECORDS}) at {file}")
            if record.WhichOneof("log_type") != "predict_log":
                raise WarmupError(f"{file}: record {count} is no predict_log")
            try:
                predict(record.predict_log.request)
            except Exception as error:
                raise WarmupError(f"{file}: record {count}: {error}") from error
    return count


def _records(file: Path) -> list[prediction_log_pb2.PredictionLog]:
    try:
        raw = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
        return [prediction_log_pb2.PredictionLog.FromString(one) for one in raw]
    except Exception as error:
        raise WarmupError(f"{file} cannot be read: {error}") from error
