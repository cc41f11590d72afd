import logging
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.models import Models
from local_server.statuses import StatusError
from tests.local_server.tiny_versions import publish

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


def config(base_path: Path, policy: str = "all {}", **labels: int) -> ModelServerConfig:
    entries = " ".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items())
    text = f'config {{ name: "m" base_path: "{base_path}" model_version_policy {{ {policy} }} {entries} }}'
    return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())


def spec(version: int | None = None, label: str = "", name: str = "m") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=name, version_label=label)
    if version is not None:
        spec.version.value = version
    return spec


def available(models: Models) -> list[int]:
    return [version for version, state in models.states(spec()).items() if state.state == AVAILABLE]


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
def test_the_policy_selects_the_versions_to_serve(base_path: Path, policy: str, served: list[int]) -> None:
    models = Models()
    models.configure(config(base_path, policy))
    models.poll()
    assert available(models) == served


def test_a_label_stands_for_its_version_and_moves(base_path: Path) -> None:
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


def test_a_new_label_may_precede_its_version_only_if_allowed(tmp_path: Path) -> None:
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


def test_a_label_never_moves_to_a_version_that_is_not_loaded(base_path: Path) -> None:
    models = Models(allow_labels_for_unavailable=True)
    models.configure(config(base_path, stable=1))
    models.poll()
    with pytest.raises(StatusError, match="not currently available"):
        models.configure(config(base_path, stable=3))
    assert models.find(spec(label="stable")).version == 1


def test_the_configuration_adds_and_removes_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    publish(tmp_path / "a", 1)
    publish(tmp_path / "b", 2)
    both_models = ModelServerConfig()
    for name in ("a", "b"):
        both_models.model_config_list.config.add(name=name, base_path=str(tmp_path / name))
    models = Models()
    models.configure(both_models)
    assert not models.is_ready()
    models.poll()
    assert models.is_ready()
    assert [models.find(spec(name=name)).version for name in ("a", "b")] == [1, 2]
    del both_models.model_config_list.config[0]
    models.configure(both_models)
    assert "a: retired version 1" in caplog.text
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(a\)"):
        models.find(spec(name="a"))
    with pytest.raises(StatusError, match="Could not find any versions of model a"):
        models.states(spec(name="a"))
