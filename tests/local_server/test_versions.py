import shutil
import threading
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from tests.conftest import serving, tiny_saved_model
from tests.local_server.tiny_versions import predict, predict_request, publish

State = get_model_status_pb2.ModelVersionStatus
NEWEST = model_pb2.ModelSpec(name="m")


def states(channel: grpc.Channel) -> list[tuple[int, int]]:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "m"
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30)
    return [(status.version, status.state) for status in response.model_version_status]


def test_a_new_version_replaces_the_old_without_a_lost_request(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with serving("m", tmp_path) as (address, models), grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stop = threading.Event()
        answers: list[tuple[float, int]] = []
        failures: list[Exception] = []

        def call() -> None:
            while not stop.is_set():
                try:
                    answers.append(predict(stub))
                except grpc.RpcError as error:
                    failures.append(error)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for version in (2, 3, 4):
            publish(tmp_path, version)
            models.poll()
            seen = len(answers)
            while len(answers) < seen + 50 and not failures:
                stop.wait(0.01)
        stop.set()
        for caller in callers:
            caller.join()
        assert not failures
        assert {version for _, version in answers} == {1, 2, 3, 4}
        assert all(answer == version for answer, version in answers)
        assert predict(stub) == (4.0, 4)
        assert states(channel) == [(4, State.AVAILABLE), (3, State.END), (2, State.END), (1, State.END)]
        with pytest.raises(grpc.RpcError, match=r"Specific\(m, 1\)"):
            predict(stub, version=1)


def test_a_call_finishes_on_the_version_where_it_began(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with serving("m", tmp_path) as (_, models):
        held = models.find(NEWEST)
        publish(tmp_path, 2)
        models.poll()
        assert held.predict(predict_request()).model_spec.version.value == 1
        assert models.find(NEWEST).version == 2


def test_staging_and_run_directories_are_not_versions(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    tiny_saved_model(tmp_path / ".staging-2", 2.0)
    (tmp_path / ".runs").mkdir()
    (tmp_path / "3").touch()  # a file
    with serving("m", tmp_path) as (_, models):
        assert models.find(NEWEST).version == 1
        assert list(models.states(NEWEST)) == [1]


def test_removing_the_newest_version_restores_the_previous_and_removing_all_unloads(tmp_path: Path) -> None:
    for version in (1, 2):
        publish(tmp_path, version)
    with serving("m", tmp_path) as (address, models), grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert predict(stub) == (2.0, 2)
        shutil.rmtree(tmp_path / "2")
        models.poll()
        assert predict(stub) == (1.0, 1)
        shutil.rmtree(tmp_path / "1")
        models.poll()
        with pytest.raises(grpc.RpcError, match=r"Servable not found for request: Latest\(m\)"):
            predict(stub)
        publish(tmp_path, 1)
        models.poll()
        assert predict(stub) == (1.0, 1)


def test_a_base_path_that_is_unreachable_for_a_moment_unloads_nothing(tmp_path: Path) -> None:
    base_path = tmp_path / "m"
    publish(base_path, 1)
    with serving("m", base_path) as (_, models):
        base_path.rename(tmp_path / "elsewhere")
        models.poll()
        assert models.find(NEWEST).version == 1


def test_a_base_path_without_versions_is_logged_once_with_its_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)  # the base path is one level too high
    with serving("m", tmp_path) as (_, models):
        models.poll()
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [str(tmp_path) in record.getMessage() for record in warnings] == [True]
