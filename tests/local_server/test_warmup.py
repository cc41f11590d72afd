from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from local_server import configuration, warmup
from local_server.models import Models
from local_server.versions import LoadRetries
from tests.local_server.tiny_versions import predict_request, publish

FILE = Path("assets.extra", "tf_serving_warmup_requests")
NEWEST = model_pb2.ModelSpec(name="m")


def predict_log(request: predict_pb2.PredictRequest) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log


def write_warmup(version: Path, *logs: prediction_log_pb2.PredictionLog) -> None:
    (version / FILE).parent.mkdir(exist_ok=True, parents=True)
    with tf.io.TFRecordWriter(str(version / FILE)) as file:
        for log in logs:
            file.write(log.SerializeToString())


def models_in(base_path: Path) -> Models:
    models = Models(retries=LoadRetries(limit=0))
    models.configure(configuration.single_model("m", base_path))
    models.poll()
    return models


def test_a_version_replays_its_warm_up_requests_before_it_is_served(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    write_warmup(tmp_path / "1", predict_log(predict_request()), predict_log(predict_request(rows=32)))
    assert models_in(tmp_path).find(NEWEST).warmup_requests == 2


def test_a_version_without_a_warm_up_file_has_nothing_to_replay(tmp_path: Path) -> None:
    assert warmup.replay(tmp_path, lambda _: pytest.fail("called")) == 0


def test_a_version_whose_warm_up_fails_is_not_served_and_the_previous_one_stays(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    models = models_in(tmp_path)
    publish(tmp_path / "staging", 2)
    wrong = predict_request()
    wrong.inputs["nothing"].CopyFrom(wrong.inputs["images"])
    write_warmup(tmp_path / "staging" / "2", predict_log(predict_request()), predict_log(wrong))
    (tmp_path / "staging" / "2").rename(tmp_path / "2")
    models.poll()
    assert models.find(NEWEST).version == 1
    state = models.states(NEWEST)[2]
    assert state.error_code
    assert "tf_serving_warmup_requests" in state.error_message


def test_every_record_up_to_the_limit_is_replayed_and_more_are_an_error(tmp_path: Path) -> None:
    requests: list[object] = []
    write_warmup(tmp_path, *[predict_log(predict_request())] * 1000)
    assert warmup.replay(tmp_path, requests.append) == len(requests) == 1000
    write_warmup(tmp_path, *[predict_log(predict_request())] * 1001)
    with pytest.raises(warmup.WarmupError, match=str(FILE)):
        warmup.replay(tmp_path, requests.append)


def test_a_record_of_another_kind_is_an_error(tmp_path: Path) -> None:
    other = prediction_log_pb2.PredictionLog()
    other.classify_log.SetInParent()
    write_warmup(tmp_path, other)
    with pytest.raises(warmup.WarmupError, match=str(FILE)):
        warmup.replay(tmp_path, lambda _: None)


def test_a_file_without_records_is_an_error(tmp_path: Path) -> None:
    write_warmup(tmp_path)
    (tmp_path / FILE).write_bytes(b"text instead of TFRecords")
    with pytest.raises(warmup.WarmupError, match=str(FILE)):
        warmup.replay(tmp_path, lambda _: None)
