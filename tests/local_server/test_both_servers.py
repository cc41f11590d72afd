"""The same requests to the local server and to TensorFlow Serving itself, where it is installed.

To use TensorFlow Serving, set TENSORFLOW_MODEL_SERVER to a `tensorflow_model_server` program, or pull the
official image into a Docker engine.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving_client import Client, ServingError
from tests.local_server.programs import PROGRAMS, running
from tests.local_server.sample_requests import (
    KERNEL_CASES,
    ROW,
    STATUS_CASES,
    VALID_JPEG,
    PredictCall,
    calls_of,
)
from trainer import run
from trainer.export.published_version import PublishedVersion

NOT_AN_IMAGE = b"not an image"
# One directory, served under two names: `tiny` without labels, `labelled` with one.
MODELS = """model_config_list {{
  config {{ name: "tiny" base_path: "{base_path}" model_platform: "tensorflow" }}
  config {{ name: "labelled" base_path: "{base_path}" model_platform: "tensorflow"
    version_labels {{ key: "stable" value: 1 }} }}
}}
"""
BATCHING = """
max_batch_size { value: 32 } batch_timeout_micros { value: 100000 }
max_enqueued_batches { value: 100 } num_batch_threads { value: 2 }
allowed_batch_sizes: 1 allowed_batch_sizes: 2 allowed_batch_sizes: 4
allowed_batch_sizes: 8 allowed_batch_sizes: 16 allowed_batch_sizes: 32
"""


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def address(
    program: str, published: run.Published, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text(MODELS.format(base_path=published.path.parent))
    flags = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
    with running(program, tmp_path_factory.getbasetemp(), flags) as address:
        yield address


@pytest.fixture(scope="module")
def predict(address: str) -> Iterator[PredictCall]:
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        yield calls_of(channel)


@pytest.fixture(scope="module")
def predict_in_batches(
    program: str, published: run.Published, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PredictCall]:
    """Calls to a server with batching.

    The version's warm-up file sends every allowed batch size. A version whose warm-up fails is not served.
    """
    batching = tmp_path_factory.mktemp("config") / "batching.config"
    batching.write_text(BATCHING)
    flags = [
        "--model_name=tiny",
        f"--model_base_path={published.path.parent}",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
    ]
    with (
        running(program, tmp_path_factory.getbasetemp(), flags) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield calls_of(channel)


def probabilities_of(response: predict_pb2.PredictResponse) -> np.ndarray:
    probabilities: np.ndarray = tf.make_ndarray(response.outputs["probabilities"])
    return probabilities


def test_predictions_are_the_saved_models_own(
    predict: PredictCall, published: run.Published, image_tree: Path
) -> None:
    paths = sorted(image_tree.glob("validation/*/*.jpg"))[:16]
    version = PublishedVersion.open(published.path)
    _, expected = version.predict_files(paths)
    response = predict({"encoded": [path.read_bytes() for path in paths]}, signature="encoded_images")
    np.testing.assert_allclose(probabilities_of(response), expected, atol=1e-5)
    images = np.random.default_rng(0).uniform(-120, 120, (16, 32, 32, 3)).astype(np.float32)
    expected = version.predict_images(images)
    np.testing.assert_allclose(probabilities_of(predict({"images": images})), expected, atol=1e-5)


@pytest.mark.parametrize(("inputs", "options", "code", "message"), STATUS_CASES)
def test_invalid_requests_get_the_same_status_and_message(
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
def test_inputs_that_the_kernels_reject_get_the_same_status(
    predict: PredictCall, inputs: dict[str, Any], signature: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(inputs, signature=signature)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()
    assert predict({"images": ROW}).outputs  # the server still answers


def test_an_invalid_image_in_a_request_with_valid_ones_is_answered_with_nan(predict: PredictCall) -> None:
    response = predict({"encoded": [VALID_JPEG, NOT_AN_IMAGE]}, signature="encoded_images")
    valid, invalid = probabilities_of(response)
    assert np.isfinite(valid).all()
    assert np.isnan(invalid).all()


def test_tensorflow_servings_own_stubs_can_call_it(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
            stub.Predict(predict_pb2.PredictRequest(), timeout=10)


@pytest.mark.parametrize("which", [{"version": 1}, {"label": "stable"}, {}], ids=str)
def test_the_client_can_ask_for_a_version_or_a_label(address: str, which: dict[str, Any]) -> None:
    with Client(address, model="labelled", timeout_s=60, **which) as client:
        assert client.classify([VALID_JPEG])[0].version == 1


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ({"version": 7}, r"Servable not found for request: Specific\(labelled, 7\)"),
        ({"label": "none"}, "Unrecognized servable version label: none"),
    ],
)
def test_the_client_reports_an_unknown_version_or_label(
    address: str, which: dict[str, Any], message: str
) -> None:
    with (
        Client(address, model="labelled", timeout_s=60, **which) as client,
        pytest.raises(ServingError, match=message),
    ):
        client.classify([VALID_JPEG])


def test_batches_of_every_allowed_size_give_the_same_answers(predict_in_batches: PredictCall) -> None:
    def ask(_: object = None) -> np.ndarray:
        return probabilities_of(predict_in_batches({"encoded": [VALID_JPEG]}, signature="encoded_images"))

    alone = ask()
    with ThreadPoolExecutor(40) as pool:
        for answer in pool.map(ask, range(200)):
            np.testing.assert_allclose(answer, alone, atol=1e-5)


def test_more_rows_than_a_batch_may_have_are_rejected(predict_in_batches: PredictCall) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict_in_batches({"images": np.zeros((33, 32, 32, 3), np.float32)})
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "Task size 33 is larger than maximum input batch size 32"


def ask_together(predict: PredictCall, images: Sequence[bytes]) -> list[np.ndarray | grpc.StatusCode]:
    """Send each image in a request of its own, all at once; return probabilities or a status for each."""
    barrier = threading.Barrier(len(images))

    def ask(image: bytes) -> np.ndarray | grpc.StatusCode:
        barrier.wait()
        try:
            return probabilities_of(predict({"encoded": [image]}, signature="encoded_images"))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code

    with ThreadPoolExecutor(len(images)) as pool:
        return list(pool.map(ask, images))


def test_an_invalid_image_in_a_batch_fails_its_own_caller_only(
    predict_in_batches: PredictCall, program: str
) -> None:
    *valid, invalid = ask_together(predict_in_batches, [VALID_JPEG] * 31 + [NOT_AN_IMAGE])
    for answer in valid:
        assert isinstance(answer, np.ndarray)
        assert np.isfinite(answer).all()
    if isinstance(invalid, np.ndarray):
        # TensorFlow Serving returns the graph's answer for a batch with a valid image. The local server
        # calls the graph again with the invalid image alone and returns the decoder's error.
        assert program == "tensorflow_model_server"
        assert np.isnan(invalid).all()
    else:
        assert invalid == grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_of_invalid_images_only_is_rejected(predict_in_batches: PredictCall) -> None:
    for answer in ask_together(predict_in_batches, [NOT_AN_IMAGE] * 8):
        assert not isinstance(answer, np.ndarray)
        assert answer == grpc.StatusCode.INVALID_ARGUMENT


OVMSCLIENT = """
import json, sys
import numpy as np
from ovmsclient import ModelNotFoundError, make_grpc_client
client = make_grpc_client(sys.argv[1])
# Without a version, ovmsclient sends version 0. TensorFlow Serving has no version 0.
status = client.get_model_status("tiny", model_version=1)
metadata = client.get_model_metadata("tiny", model_version=1)
try:
    client.get_model_status("nope")
except ModelNotFoundError as error:
    missing = str(error)
answer = client.predict({"images": np.zeros((2, 32, 32, 3), np.float32)}, "tiny", model_version=1)
print(json.dumps({
    "status": status,
    "inputs": metadata["inputs"],
    "missing": missing,
    "probabilities": answer["probabilities"].tolist(),
}))
"""


def test_a_third_party_client_gets_status_metadata_and_predictions(
    address: str, published: run.Published
) -> None:
    """ovmsclient runs in a process of its own, because it brings its own generated protobuf modules."""
    command = [sys.executable, "-c", OVMSCLIENT, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["status"] == {"1": {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    assert answer["inputs"] == {"images": {"shape": [-1, 32, 32, 3], "dtype": "DT_FLOAT"}}
    assert "nope" in answer["missing"]
    expected = PublishedVersion.open(published.path).predict_images(np.zeros((2, 32, 32, 3), np.float32))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
