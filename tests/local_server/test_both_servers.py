"""The same requests to the local server and to TensorFlow Serving itself, where it is at hand.

TENSORFLOW_MODEL_SERVER names a `tensorflow_model_server` program; or a Docker engine has the official image.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving_client import Client, ServingError
from tests.local_server.programs import running
from tests.local_server.test_predict import CASES, GOOD, KERNEL_CASES, PredictCall, calls_of
from tests.local_server.test_versions import publish
from trainer import run
from trainer.cluster import model_config
from trainer.cluster.config_store import ConfigFile
from trainer.export.published import PublishedVersion

PROGRAMS = ["local_server", "tensorflow_model_server"]

MODELS = """model_config_list {{ config {{ name: "m" base_path: "{base_path}" model_platform: "tensorflow"
  model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }} }} }}
"""
BATCHING = """
max_batch_size {{ value: {largest} }} batch_timeout_micros {{ value: 20000 }}
max_enqueued_batches {{ value: 100 }} num_batch_threads {{ value: 2 }}
allowed_batch_sizes: {sizes}
"""


@pytest.fixture(scope="module", params=PROGRAMS)
def address(request: pytest.FixtureRequest, published: run.Published) -> Iterator[str]:
    base_path = published.path.parent
    flags = ["--model_name=tiny", f"--model_base_path={base_path}", "--grpc_max_threads=64"]
    with running(request.param, base_path.parent, flags) as address:
        yield address


@pytest.fixture(scope="module")
def predict(address: str) -> Iterator[PredictCall]:
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        yield calls_of(channel)


def test_predictions_are_the_saved_models_own(
    predict: PredictCall, published: run.Published, image_tree: Path
) -> None:
    paths = sorted(image_tree.glob("validation/*/*.jpg"))[:16]
    version = PublishedVersion.open(published.path)
    _, expected = version.answer(paths)
    encoded = [path.read_bytes() for path in paths]
    answer = tf.make_ndarray(
        predict({"encoded": encoded}, signature="encoded_images").outputs["probabilities"]
    )
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    images = np.random.default_rng(0).uniform(-120, 120, (16, 32, 32, 3)).astype(np.float32)
    answer = tf.make_ndarray(predict({"images": images}).outputs["probabilities"])
    np.testing.assert_allclose(answer, version.answer_inputs(images), atol=1e-5)


@pytest.mark.parametrize(("inputs", "options", "code", "message"), CASES)
def test_bad_requests_get_the_same_status_and_message(
    predict: PredictCall,
    inputs: dict[str, Any],
    options: dict[str, Any],
    code: grpc.StatusCode,
    message: str,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(inputs, **options)
    assert (caught.value.code(), caught.value.details()) == (code, message)


@pytest.mark.parametrize(("inputs", "signature", "message"), KERNEL_CASES)
def test_what_the_kernels_refuse_gets_the_same_status(
    predict: PredictCall, inputs: dict[str, Any], signature: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(inputs, signature=signature)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


@pytest.mark.parametrize("program", PROGRAMS)
def test_states_while_versions_come_and_go_and_labels_move(program: str, tmp_path: Path) -> None:
    base_path = tmp_path / "m"
    base_path.mkdir()
    publish(base_path, 1)
    config = tmp_path / "models.config"
    config.write_text(MODELS.format(base_path=base_path))
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
    ]
    with running(program, tmp_path, flags) as address, grpc.insecure_channel(address) as channel:
        call = calls_of(channel)
        status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus

        def states() -> list[tuple[int, int]]:
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "m"
            return [(one.version, one.state) for one in status(request, timeout=10).model_version_status]

        def answered_by(**which: Any) -> int:
            row = {"images": np.zeros((1, 2), np.float32)}
            return int(call(row, name="m", **which).model_spec.version.value)

        assert states() == [(1, 30)]
        assert answered_by(label="stable") == 1
        publish(base_path, 2)
        until(lambda: states() == [(2, 30), (1, 30)])
        assert (answered_by(), answered_by(label="stable"), answered_by(version=1)) == (2, 1, 1)
        store = ConfigFile(config)
        store.edit(lambda text: model_config.promote(text, "m", "stable", 2, config))
        until(lambda: answered_by(label="stable") == 2)
        store.edit(lambda text: model_config.roll_back(text, "m", "stable", config)[0])
        until(lambda: answered_by(label="stable") == 1)
        store.edit(lambda text: model_config.promote(text, "m", "stable", 9, config))
        time.sleep(3)
        assert answered_by(label="stable") == 1  # no label moves to a version that is not there


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_published_version_is_served_with_batching_at_every_allowed_size(
    program: str, published: run.Published, tmp_path: Path
) -> None:
    """Its warm-up file asks for each of them, and a version whose warm-up fails is not served."""
    batching = tmp_path / "batching.config"
    sizes = " allowed_batch_sizes: ".join(map(str, [1, 2, 4, 8, 16, 32]))
    batching.write_text(BATCHING.format(largest=32, sizes=sizes))
    flags = [
        "--model_name=tiny",
        f"--model_base_path={published.path.parent}",
        "--grpc_max_threads=64",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
    ]
    shared = Path(*tmp_path.parts[:2])
    with running(program, shared, flags) as address, grpc.insecure_channel(address) as channel:
        call = calls_of(channel)
        one_by_one = [
            tf.make_ndarray(call({"encoded": [GOOD]}, signature="encoded_images").outputs["logits"])
            for _ in range(2)
        ]
        with ThreadPoolExecutor(40) as pool:
            together = pool.map(
                lambda _: tf.make_ndarray(
                    call({"encoded": [GOOD]}, signature="encoded_images").outputs["logits"]
                ),
                range(200),
            )
            for answer in together:
                np.testing.assert_allclose(answer, one_by_one[0], atol=1e-5)
        with pytest.raises(grpc.RpcError, match="Task size 33 is larger than maximum input batch size 32"):
            call({"images": np.zeros((33, 32, 32, 3), np.float32)})


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bad_image_among_good_ones_of_other_callers_fails_its_own_caller_only(
    program: str, published: run.Published, tmp_path: Path
) -> None:
    """What remains with TensorFlow Serving: a batch of bad images only is refused as a whole, rightly; and
    the caller of a bad one among good ones gets NaN in place of a status, which the client says in words.
    """
    batching = tmp_path / "batching.config"
    batching.write_text(BATCHING.format(largest=8, sizes="8").replace("20000", "1000000"))
    served = tmp_path / "models" / "tiny"
    served.mkdir(parents=True)
    shutil.copytree(published.path, served / "1")
    (served / "1" / "assets.extra" / "tf_serving_warmup_requests").unlink()  # asks for 32 rows
    flags = [
        "--model_name=tiny",
        f"--model_base_path={served}",
        "--grpc_max_threads=64",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
    ]
    with running(program, tmp_path, flags) as address, grpc.insecure_channel(address) as channel:
        call = calls_of(channel)
        barrier = threading.Barrier(8)

        def ask(encoded: bytes) -> object:
            barrier.wait()
            try:
                response = call({"encoded": [encoded]}, signature="encoded_images")
                return tf.make_ndarray(response.outputs["probabilities"])
            except grpc.RpcError as error:
                return error.code()

        with ThreadPoolExecutor(8) as pool:
            *good, bad = pool.map(ask, [GOOD] * 7 + [b"no image"])
        for answer in good:
            assert isinstance(answer, np.ndarray)
            assert np.isfinite(answer).all()
        if program == "local_server":
            assert bad == grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert bad == grpc.StatusCode.INVALID_ARGUMENT or np.isnan(np.asarray(bad)).all()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_client_asks_for_a_version_or_a_label(
    program: str, published: run.Published, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text(MODELS.format(base_path=published.path.parent))
    flags = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
    shared = Path(*tmp_path.parts[:2])
    with running(program, shared, flags) as address:
        for which in ({"version": 1}, {"label": "stable"}, {}):
            with Client(address, model="m", timeout_s=60, **which) as client:
                assert client.classify([GOOD])[0].version == 1
        for which, message in (
            ({"version": 7}, "Specific"),
            ({"label": "none"}, "Unrecognized servable version label: none"),
        ):
            with (
                Client(address, model="m", timeout_s=60, **which) as client,
                pytest.raises(ServingError, match=message),
            ):
                client.classify([GOOD])


def test_of_several_pictures_in_a_request_the_one_that_cannot_be_decoded_is_not_a_number(
    predict: PredictCall,
) -> None:
    response = predict({"encoded": [GOOD, b"no image"]}, signature="encoded_images")
    probabilities = tf.make_ndarray(response.outputs["probabilities"])
    assert np.isfinite(probabilities[0]).all()
    assert np.isnan(probabilities[1]).all()


def test_stubs_of_tensorflow_serving_are_what_is_spoken(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
            stub.Predict(predict_pb2.PredictRequest(), timeout=10)
