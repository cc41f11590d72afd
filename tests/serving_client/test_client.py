import io
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import pytest
from PIL import Image

from serving_client import (
    Client,
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    ModelNotFound,
    ServerError,
    ServerUnavailable,
    ServingError,
    codec,
    errors,
    preprocessing,
)
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Via
from tests.conftest import serving, tiny_saved_model
from trainer import run
from trainer.export.model_card import ModelCard
from trainer.export.publishing import ModelDirectory
from trainer.export.signatures import save_signatures
from trainer.model.backbones import find_backbone


def pictures(image_tree: Path, count: int) -> list[Path]:
    return sorted(image_tree.glob("validation/*/*.jpg"))[:count]


def test_describe_tells_labels_input_and_metrics(client: Client, published: run.Published) -> None:
    card = client.describe()
    assert card.labels == ("fish", "flower", "house", "moon", "sun", "tree")
    assert (card.name, card.version) == ("tiny", 1)
    assert (card.input.height_px, card.input.width_px, card.input.mode) == (32, 32, "caffe")
    assert card.raw["metrics"]["validation"]["accuracy"] == published.metrics["validation"].accuracy


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_classify_takes_every_kind_of_image_in_one_call(client: Client, image_tree: Path, via: Via) -> None:
    path = pictures(image_tree, 1)[0]
    with Image.open(path) as image:
        image.load()
    kinds: list[ImageInput] = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    predictions = client.classify(kinds, top_k=2, via=via)
    assert len(predictions) == 5
    for prediction in predictions:
        assert [score.label for score in prediction.scores] == [s.label for s in predictions[0].scores]
        assert prediction.probability == pytest.approx(predictions[0].probability, abs=1e-5)
        assert prediction.version == 1


def test_scores_are_sorted_and_no_more_than_there_are_labels(client: Client, image_tree: Path) -> None:
    (prediction,) = client.classify(pictures(image_tree, 1), top_k=99)
    probabilities = [score.probability for score in prediction.scores]
    assert len(probabilities) == 6
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert (prediction.label, prediction.probability) == (prediction.scores[0].label, probabilities[0])


def test_more_images_than_a_request_holds_come_back_in_order(client: Client, image_tree: Path) -> None:
    paths = pictures(image_tree, 50)
    together = client.classify(iter(paths))
    one_by_one = [client.classify([path])[0] for path in paths]
    assert [p.label for p in together] == [p.label for p in one_by_one]


def test_no_images_give_no_predictions_and_no_call() -> None:
    with Client("localhost:1", model="tiny") as client:
        assert client.classify([]) == []


def test_predict_takes_preprocessed_tensors(client: Client, image_tree: Path) -> None:
    path = pictures(image_tree, 1)[0]
    images = preprocessing.preprocess(path, client.describe().input)[None]
    outputs = client.predict(images)
    assert outputs["logits"].shape == outputs["probabilities"].shape == (1, 6)
    (prediction,) = client.classify([path])
    assert outputs["probabilities"].max() == pytest.approx(prediction.probability)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(np.zeros((1, 33, 32, 3), np.float32), id="other height"),
        pytest.param(np.zeros((1, 32, 32, 1), np.float32), id="other channels"),
        pytest.param(np.zeros((32, 32, 3), np.float32), id="no batch"),
        pytest.param(np.zeros((1, 32, 32, 3), np.float64), id="other dtype"),
        pytest.param(np.zeros((0, 32, 32, 3), np.float32), id="no rows"),
        pytest.param([[1.0]], id="a list"),
    ],
)
def test_predict_refuses_what_the_server_would_not_check(client: Client, images: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match=r"(takes float32 \(N, 32, 32, 3\)|numpy array).*Received"):
        client.predict(images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda c: c.classify("cat.jpg"), "must be a list of images. Received one str", id="one path"
        ),
        pytest.param(lambda c: c.classify([], top_k=0), "top_k must be at least 1", id="top_k"),
        pytest.param(lambda c: c.classify([], via="raw"), "'images' or 'encoded'. Received: 'raw'", id="via"),
        pytest.param(lambda c: Client("h:1", model=""), "model must name a model", id="no model"),
        pytest.param(
            lambda c: Client("h:1", model="m", timeout_s=0), "timeout_s must be positive", id="no time"
        ),
    ],
)
def test_wrong_arguments_are_refused_before_a_call(
    client: Client, call: Callable[[Client], object], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        call(client)


def test_a_bad_image_is_named(client: Client, image_tree: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match="bad.jpg: cannot be decoded"):
        client.classify([*pictures(image_tree, 2), bad])


def test_no_server_there() -> None:
    with Client("localhost:1", model="tiny") as client, pytest.raises(ServerUnavailable) as caught:
        client.describe()
    assert str(caught.value).startswith("localhost:1, model 'tiny': UNAVAILABLE:")
    assert "Check the address" in str(caught.value)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_an_unknown_model(address: str) -> None:
    with Client(address, model="nope") as client, pytest.raises(ModelNotFound, match=r"Latest\(nope\)"):
        client.describe()


def test_a_passed_deadline() -> None:
    """A server that takes the connection and never says a word."""
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        silent.listen()
        started = time.monotonic()
        with (
            Client(
                f"localhost:{silent.getsockname()[1]}", model="m", timeout_s=0.3, wait_for_ready=True
            ) as client,
            pytest.raises(DeadlineExceeded, match="raise the timeout"),
        ):
            client.describe()
        assert time.monotonic() - started < 5


def test_a_model_without_a_card(tmp_path: Path) -> None:
    tiny_saved_model(tmp_path / "1", 0.5)
    with (
        serving("bare", tmp_path) as (address, _),
        Client(address, model="bare") as client,
        pytest.raises(
            InvalidRequest, match='signature key "describe" not found. Was this model published by'
        ),
    ):
        client.describe()


def test_waits_for_a_server_that_starts_later(published: run.Published, image_tree: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    from concurrent.futures import ThreadPoolExecutor

    from local_server import configuration
    from local_server.models import Models
    from local_server.services import build_server

    with (
        Client(f"localhost:{port}", model="tiny", timeout_s=30, wait_for_ready=True) as client,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(client.classify, pictures(image_tree, 1))
        time.sleep(0.5)
        models = Models()
        models.configure(configuration.of_one_model("tiny", published.path.parent))
        models.poll()
        server, _ = build_server(models, f"localhost:{port}", max_threads=2)
        server.start()
        try:
            assert len(answer.result()) == 1
        finally:
            server.stop(None).wait()


def publish_tiny(models: Path, backbone_name: str, labels: list[str], size_px: int = 8) -> None:
    """Publish a version whose probabilities depend on the mean of each channel, as it is preprocessed."""
    backbone = find_backbone(backbone_name)
    card = ModelCard(
        name="m",
        labels=labels,
        image_size_px=size_px,
        backbone=backbone,
        weights="none",
        data={},
        metrics={},
        config={},
    )
    network = keras.Sequential(
        [
            keras.Input((size_px, size_px, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Rescaling(0.01),
            keras.layers.Dense(len(labels), kernel_initializer=keras.initializers.Identity()),
        ]
    )
    directory = ModelDirectory(models, "m")
    directory.prepare()
    directory.publish(card, lambda path, text: save_signatures(path, network, backbone, size_px, text))


RED_AND_SOME_BLUE = np.full((12, 12, 3), (250, 0, 120), np.uint8)


@pytest.mark.parametrize("via", ["images", "encoded"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels": ["x", "y", "z"]}, id="other labels"),
        pytest.param({"size_px": 10}, id="another size: the old request is refused"),
        pytest.param({"backbone_name": "mobilenetv2"}, id="other preprocessing: the old request is answered"),
    ],
)
def test_a_version_that_goes_live_between_two_calls_is_read_with_its_own_card(
    tmp_path: Path, change: dict[str, Any], via: Via
) -> None:
    first: dict[str, Any] = {"backbone_name": "vgg16", "labels": ["a", "b", "c"]}
    publish_tiny(tmp_path, **first)
    with serving("m", tmp_path / "m") as (address, models), Client(address, model="m") as client:
        (before,) = client.classify([RED_AND_SOME_BLUE], via=via)
        assert before.version == 1
        publish_tiny(tmp_path, **{**first, **change})
        models.poll()
        (prediction,) = client.classify([RED_AND_SOME_BLUE], via=via)
        with Client(address, model="m") as fresh:
            assert [prediction] == fresh.classify([RED_AND_SOME_BLUE], via=via)
        assert prediction.version == 2
        if "size_px" not in change:
            assert prediction.scores != before.scores


def test_predict_follows_a_version_with_another_input(tmp_path: Path) -> None:
    publish_tiny(tmp_path, "vgg16", ["a", "b"])
    with serving("m", tmp_path / "m") as (address, models), Client(address, model="m") as client:
        assert client.predict(np.zeros((1, 8, 8, 3), np.float32))["logits"].shape == (1, 2)
        publish_tiny(tmp_path, "vgg16", ["a", "b"], size_px=10)
        models.poll()
        assert client.predict(np.zeros((1, 10, 10, 3), np.float32))["logits"].shape == (1, 2)
        with pytest.raises(InvalidRequest, match=r"\(N, 10, 10, 3\)"):
            client.predict(np.zeros((1, 8, 8, 3), np.float32))


def test_a_version_copied_to_another_number_is_known_by_the_number_it_is_served_under(
    tmp_path: Path, published: run.Published, image_tree: Path
) -> None:
    shutil.copytree(published.path, tmp_path / "7")
    with serving("tiny", tmp_path) as (address, _), Client(address, model="tiny") as client:
        assert client.describe().version == 7
        assert client.classify(pictures(image_tree, 1))[0].version == 7


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServerError),
    ],
)
def test_each_status_has_its_error(code: grpc.StatusCode, kind: type[ServingError]) -> None:
    assert type(codec.error_from(code, "", "host:1", "m")) is kind


def test_every_status_becomes_an_error_of_the_family() -> None:
    for code in grpc.StatusCode:
        error = codec.error_from(code, "details\nof two lines", "host:1", "m")
        assert isinstance(error, ServingError)
        assert "\n" not in str(error)
        assert code.name in str(error)


def test_errors_have_one_base() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, ServingError) for kind in kinds)


def test_a_card_of_an_unknown_schema_says_so() -> None:
    from serving_client import card

    with pytest.raises(ServerError, match="schema_version 2, and this client reads 1"):
        card.parse(b'{"schema_version": 2}')
    with pytest.raises(ServerError, match="no model card"):
        card.parse(b"{}")


def test_images_larger_than_a_message_of_grpcs_default_pass(client: Client) -> None:
    """4 photographs of 2 megapixels, more than 4 MiB together: the bytes go out in one request."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG", quality=95)
    assert 4 * len(buffer.getvalue()) > 4 * 2**20
    assert len(client.classify([buffer.getvalue()] * 4, via="encoded")) == 4
