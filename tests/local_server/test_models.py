from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.models import Models
from local_server.statuses import StatusError
from tests.local_server.test_versions import publish


def config(base_path: Path, policy: str = "all {}", **labels: int) -> ModelServerConfig:
    named = " ".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items())
    text = f'config {{ name: "m" base_path: "{base_path}" model_version_policy {{ {policy} }} {named} }}'
    return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())


def spec(version: int | None = None, label: str = "", name: str = "m") -> model_pb2.ModelSpec:
    made = model_pb2.ModelSpec(name=name, version_label=label)
    if version is not None:
        made.version.value = version
    return made


def serving(models: Models, **labels: int) -> list[int]:
    return [version for version, state in models.states(spec()).items() if state.state == 30]


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    for version in (1, 2, 10):
        publish(tmp_path, version)
    return tmp_path


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [10]),
        ("latest {}", [10]),
        ("latest { num_versions: 2 }", [10, 2]),
        ("all {}", [10, 2, 1]),
        ("specific { versions: 1 versions: 2 versions: 7 }", [2, 1]),
    ],
)
def test_the_policy_says_which_versions_are_served(base_path: Path, policy: str, served: list[int]) -> None:
    models = Models()
    models.configure(config(base_path, policy))
    models.poll()
    assert serving(models) == served


def test_a_label_answers_for_its_version_and_moves(base_path: Path) -> None:
    models = Models(allow_labels_for_unavailable=True)
    models.configure(config(base_path, stable=1, canary=2))
    models.poll()
    assert [models.find(spec(label=label)).version for label in ("stable", "canary")] == [1, 2]
    assert models.find(spec()).version == 10
    models.configure(config(base_path, stable=2, canary=10))
    assert [models.find(spec(label=label)).version for label in ("stable", "canary")] == [2, 10]
    assert list(models.states(spec(label="stable"))) == [2]
    models.configure(config(base_path, stable=2))
    with pytest.raises(StatusError, match="Unrecognized servable version label: canary"):
        models.find(spec(label="canary"))


def test_a_new_label_may_come_before_its_version_only_where_that_is_allowed(tmp_path: Path) -> None:
    message = (
        "Request to assign label to version 1 of model m, which is not currently available for inference"
    )
    with pytest.raises(StatusError, match=message) as caught:
        Models().configure(config(tmp_path, stable=1))
    assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
    models = Models(allow_labels_for_unavailable=True)
    models.configure(config(tmp_path, stable=1))
    with pytest.raises(StatusError, match="Servable not found for request"):
        models.find(spec(label="stable"))
    publish(tmp_path, 1)
    models.poll()
    assert models.find(spec(label="stable")).version == 1


def test_a_label_never_moves_to_a_version_that_is_not_there(base_path: Path) -> None:
    models = Models(allow_labels_for_unavailable=True)
    models.configure(config(base_path, stable=1))
    models.poll()
    with pytest.raises(StatusError, match="not currently available"):
        models.configure(config(base_path, stable=3))
    assert models.find(spec(label="stable")).version == 1


def test_several_models_come_and_go_by_configuration(tmp_path: Path) -> None:
    publish(tmp_path / "a", 1)
    publish(tmp_path / "b", 2)
    both = ModelServerConfig()
    for name in ("a", "b"):
        both.model_config_list.config.add(name=name, base_path=str(tmp_path / name))
    models = Models()
    models.configure(both)
    assert not models.is_ready()
    models.poll()
    assert models.is_ready()
    assert [models.find(spec(name=name)).version for name in ("a", "b")] == [1, 2]
    del both.model_config_list.config[0]
    models.configure(both)
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(a\)"):
        models.find(spec(name="a"))
    with pytest.raises(StatusError, match="Could not find any versions of model a"):
        models.states(spec(name="a"))


def write_warmup(version: Path, *requests: predict_pb2.PredictRequest) -> None:
    (version / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            file.write(log.SerializeToString())


def request(rows: int, name: str = "images") -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest(model_spec=spec())
    made.inputs[name].CopyFrom(tf.make_tensor_proto(np.zeros((rows, 2), np.float32)))
    return made


def test_a_version_answers_its_warm_up_requests_before_it_answers_callers(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    write_warmup(tmp_path / "1", request(1), request(32))
    models = Models()
    models.configure(config(tmp_path))
    models.poll()
    assert models.find(spec()).warmup_requests == 2


@pytest.mark.parametrize("damage", ["a request that fails", "no TFRecord", "too many"])
def test_a_version_whose_warm_up_fails_is_not_served_and_the_one_before_stays(
    tmp_path: Path, damage: str
) -> None:
    publish(tmp_path, 1)
    models = Models()
    models.configure(config(tmp_path, "latest {}"))
    models.poll()
    publish(tmp_path / "staging", 2)
    version = tmp_path / "staging" / "2"
    write_warmup(
        version,
        *{
            "a request that fails": [request(1), request(1, "nothing")],
            "no TFRecord": [],
            "too many": [request(1)] * 1001,
        }[damage],
    )
    if damage == "no TFRecord":
        (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"text, and no records at all")
    version.rename(tmp_path / "2")
    models.poll()
    assert models.find(spec()).version == 1
    state = models.states(spec(version=2))[2]
    assert state.error_code
    assert "tf_serving_warmup_requests" in state.error_message
