import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from local_server.configuration import ConfigurationError
from local_server.server import Server, Settings
from local_server.versions import LoadRetries
from tests.conftest import tiny_saved_model
from tests.local_server.tiny_versions import predict, publish

MODELS = 'model_config_list {{ config {{ name: "m" base_path: "{}" }} }}'


@pytest.fixture
def start() -> Iterator[Callable[[Settings], Server]]:
    """Run servers in threads of this process until the test ends."""
    stop = threading.Event()
    threads = []

    def run(settings: Settings) -> Server:
        server = Server(settings)
        threads.append(threading.Thread(target=server.run, args=(stop,)))
        threads[-1].start()
        return server

    yield run
    stop.set()
    for thread in threads:
        thread.join()
    gc.unfreeze()  # a server freezes all objects of its process


def test_a_broken_model_configuration_keeps_the_previous_one_until_it_is_fixed(
    tmp_path: Path, start: Callable[[Settings], Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publish(tmp_path / "a", 1)
    publish(tmp_path / "b", 2)
    config = tmp_path / "models.config"
    config.write_text(MODELS.format(tmp_path / "a"))
    server = start(
        Settings(port=0, model_config_file=config, model_config_poll_s=0.05, file_system_poll_s=0.05)
    )
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert predict(stub) == (1.0, 1)
        time.sleep(0.3)  # several polls
        assert caplog.text.count("Configured models") == 1
        config.write_text("model_config_list {")
        deadline = time.monotonic() + 30
        while str(config) not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert predict(stub) == (1.0, 1)
        config.write_text(MODELS.format(tmp_path / "b"))
        while predict_or_unavailable(stub) != (2.0, 2):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def predict_or_unavailable(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> tuple[float, int] | None:
    """A model whose base path changed has no version until the next poll."""
    try:
        return predict(stub)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        return None


def test_a_server_cannot_start_with_a_broken_model_configuration(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list {")
    with pytest.raises(ConfigurationError, match=str(config)):
        Server(Settings(port=0, model_config_file=config))


def wait_for(stub: prediction_service_pb2_grpc.PredictionServiceStub, answer: tuple[float, int]) -> None:
    deadline = time.monotonic() + 30
    while predict_or_unavailable(stub) != answer:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_configuration_and_failed_versions_do_not_wait_for_the_next_look_at_the_disk(
    tmp_path: Path, start: Callable[[Settings], Server]
) -> None:
    publish(tmp_path / "a", 1)
    publish(tmp_path / "c", 3)
    config = tmp_path / "models.config"
    config.write_text(MODELS.format(tmp_path / "a"))
    settings = Settings(
        port=0,
        model_config_file=config,
        model_config_poll_s=0.05,
        file_system_poll_s=0,  # once, and after each change of the configuration
        load_retries=LoadRetries(limit=10_000, interval_s=0.05),
    )
    server = start(settings)
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert predict(stub) == (1.0, 1)
        publish(tmp_path / "a", 2)
        time.sleep(0.3)
        assert predict(stub) == (1.0, 1)
        (tmp_path / "b" / "2").mkdir(parents=True)  # a copy begins
        config.write_text(MODELS.format(tmp_path / "b"))
        wait_for_not_found(stub)
        config.write_text(MODELS.format(tmp_path / "c"))
        wait_for(stub, (3.0, 3))
        config.write_text(MODELS.format(tmp_path / "b"))
        wait_for_not_found(stub)
        tiny_saved_model(tmp_path / "b" / "2", 2.0)
        wait_for(stub, (2.0, 2))


def wait_for_not_found(stub: prediction_service_pb2_grpc.PredictionServiceStub) -> None:
    deadline = time.monotonic() + 30
    while predict_or_unavailable(stub) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
