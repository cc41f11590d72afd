"""Versions that cannot be loaded yet: their files are still being copied, or are damaged."""

import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.models import Models
from local_server.statuses import StatusError
from local_server.versions import LoadRetries, VersionState
from tests.local_server.tiny_versions import predict_request, publish

State = get_model_status_pb2.ModelVersionStatus
M = model_pb2.ModelSpec(name="m")
AT_ONCE = 0.0
LATER = 1e6


def models_in(base_path: Path, retries: LoadRetries, policy: str = "", *, name: str = "m") -> Models:
    text = f'config {{ name: "{name}" base_path: "{base_path}" model_version_policy {{ {policy} }} }}'
    models = Models(retries=retries)
    models.configure(text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig()))
    return models


def states(models: Models) -> dict[int, int]:
    return {version: state.state for version, state in models.states(M).items()}


def answer(models: Models) -> float:
    outputs = models.find(M).predict(predict_request()).outputs
    return float(tf.make_ndarray(outputs["probabilities"])[0, 0])


def damage(version: Path) -> None:
    version.mkdir()
    (version / "saved_model.pb").write_bytes(b"\xff damaged")


class Scale(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """Answers its variable, so it can answer only once the variable has been restored."""

    def __init__(self, value: float) -> None:
        self.value = tf.Variable([[value]])

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="images")])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.tile(self.value, (tf.shape(images)[0], 1))}


def test_a_version_copied_file_by_file_is_served_once_it_is_complete(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "m" / "2"
    module = Scale(2.0)
    tf.saved_model.save(module, str(source), signatures={"serving_default": module.serve})
    publish(tmp_path / "m", 1)
    models = models_in(tmp_path / "m", LoadRetries(limit=9, interval_s=AT_ONCE))
    models.poll()

    def is_still_served_by_version_1() -> None:
        models.poll()
        assert answer(models) == 1.0
        assert models.states(M)[2] == VersionState(State.LOADING)

    target.mkdir()
    is_still_served_by_version_1()
    content = (source / "saved_model.pb").read_bytes()
    for size in (0, len(content) // 2, len(content)):
        (target / "saved_model.pb").write_bytes(content[:size])
        is_still_served_by_version_1()
    (target / "variables").mkdir()
    is_still_served_by_version_1()
    shutil.copy(source / "variables" / "variables.index", target / "variables")
    is_still_served_by_version_1()
    (data,) = (source / "variables").glob("*data*")
    (target / "variables" / data.name).write_bytes(data.read_bytes()[:-3])
    is_still_served_by_version_1()
    shutil.copy(data, target / "variables")
    models.poll()
    assert answer(models) == 2.0
    assert states(models) == {2: State.AVAILABLE, 1: State.END}


def test_a_graph_whose_variables_never_come_fails_and_names_their_file(tmp_path: Path) -> None:
    module = Scale(2.0)
    tf.saved_model.save(module, str(tmp_path / "m" / "1"), signatures={"serving_default": module.serve})
    shutil.rmtree(tmp_path / "m" / "1" / "variables")
    models = models_in(tmp_path / "m", LoadRetries(limit=0))
    models.poll()
    state = models.states(M)[1]
    assert (state.state, state.error_code != 0) == (State.END, True)
    assert str(Path("variables", "variables")) in state.error_message


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_after_the_last_try_a_version_ends_with_its_error(
    tmp_path: Path, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / "1")
    models = models_in(tmp_path, LoadRetries(limit, AT_ONCE))
    for _ in range(limit):
        models.poll()
        assert models.states(M) == {1: VersionState(State.LOADING)}
    models.poll()
    (state,) = models.states(M).values()
    assert (state.state, state.error_code != 0) == (State.END, True)
    assert state.error_message
    assert models.retry_at() == float("inf")
    models.poll()  # does not try again
    failures = [record for record in caplog.records if "failed to load" in record.getMessage()]
    assert len(failures) == limit + 1
    assert all("\n" not in record.getMessage() and not record.exc_info for record in failures)


def test_a_failed_version_is_tried_again_only_after_it_was_removed(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    damage(tmp_path / "2")
    models = models_in(tmp_path, LoadRetries(limit=0))
    models.poll()
    shutil.rmtree(tmp_path / "2")
    publish(tmp_path, 2)
    models.poll()  # the directory was never seen to be missing
    assert states(models)[2] == State.END
    shutil.rmtree(tmp_path / "2")
    models.poll()
    assert (states(models)[2], models.states(M)[2].error_code != 0) == (State.END, True)
    publish(tmp_path, 2)
    models.poll()
    assert answer(models) == 2.0


def test_a_version_that_is_removed_while_it_waits_ends_with_its_error(tmp_path: Path) -> None:
    damage(tmp_path / "1")
    models = models_in(tmp_path, LoadRetries(5, LATER))
    models.poll()
    assert models.retry_at() < float("inf")
    shutil.rmtree(tmp_path / "1")
    models.poll()
    assert (states(models), models.states(M)[1].error_code != 0) == ({1: State.END}, True)
    assert models.retry_at() == float("inf")
    publish(tmp_path, 1)
    models.poll()
    assert answer(models) == 1.0


def test_no_try_comes_before_its_time(tmp_path: Path) -> None:
    damage(tmp_path / "1")
    models = models_in(tmp_path, LoadRetries(5, LATER))
    models.poll()
    shutil.rmtree(tmp_path / "1")
    publish(tmp_path, 1)
    for _ in range(3):
        models.poll()
        models.load_due()
    assert models.states(M) == {1: VersionState(State.LOADING)}


def test_a_version_that_waits_holds_up_no_other_version_model_or_label(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    damage(tmp_path / "m" / "3")
    models = models_in(tmp_path / "m", LoadRetries(5, LATER), "all {}")
    models.poll()
    publish(tmp_path / "m", 2)
    publish(tmp_path / "other", 7)
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name="m", base_path=str(tmp_path / "m")
    ).model_version_policy.all.SetInParent()
    config.model_config_list.config.add(name="other", base_path=str(tmp_path / "other"))
    models.configure(config)
    models.poll()
    assert states(models) == {3: State.LOADING, 2: State.AVAILABLE, 1: State.AVAILABLE}
    assert models.find(model_pb2.ModelSpec(name="other")).version == 7
    config.model_config_list.config[0].version_labels["stable"] = 2
    models.configure(config)
    assert models.find(model_pb2.ModelSpec(name="m", version_label="stable")).version == 2
    config.model_config_list.config[0].version_labels["stable"] = 3
    with pytest.raises(StatusError, match="not currently available"):
        models.configure(config)


def test_the_defaults_are_five_retries_a_minute_apart() -> None:
    assert (LoadRetries().limit, LoadRetries().interval_s) == (5, 60.0)
