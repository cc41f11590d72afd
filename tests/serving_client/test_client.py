import io
import re
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    ServerUnavailable,
    preprocessing,
)
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Via
from tests.conftest import serving, tiny_saved_model
from tests.serving_client import fake_model_server
from trainer import run
from trainer.export.model_card import ModelCard, digest_weights
from trainer.export.publishing import ModelDirectory
from trainer.export.signatures import save_signatures
from trainer.model.backbones import find_backbone


def pictures(image_tree: Path, count: int) -> list[Path]:
    return sorted(image_tree.glob("validation/*/*.jpg"))[:count]


def test_describe_returns_labels_input_and_metrics(client: Client, published: run.Published) -> None:
    card = client.describe()
    assert card.labels == ("fish", "flower", "house", "moon", "sun", "tree")
    assert (card.name, card.version) == ("tiny", 1)
    assert (card.input.height_px, card.input.width_px, card.input.mode) == (32, 32, "caffe")
    assert card.raw["metrics"]["validation"]["accuracy"] == published.metrics["validation"].accuracy


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_classify_accepts_every_kind_of_image_in_one_call(client: Client, image_tree: Path, via: Via) -> None:
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


def test_scores_are_sorted_and_at_most_one_per_label(client: Client, image_tree: Path) -> None:
    (prediction,) = client.classify(pictures(image_tree, 1), top_k=99)
    probabilities = [score.probability for score in prediction.scores]
    assert len(probabilities) == 6
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert (prediction.label, prediction.probability) == (prediction.scores[0].label, probabilities[0])


def test_more_images_than_a_request_holds_are_answered_in_order(client: Client, image_tree: Path) -> None:
    paths = pictures(image_tree, 50)
    together = client.classify(iter(paths))
    one_by_one = [client.classify([path])[0] for path in paths]
    assert [p.label for p in together] == [p.label for p in one_by_one]


def test_an_empty_list_needs_no_call() -> None:
    with Client("localhost:1", model="tiny") as client:
        assert client.classify([]) == []


def test_predict_accepts_preprocessed_tensors(client: Client, image_tree: Path) -> None:
    path = pictures(image_tree, 1)[0]
    images = preprocessing.preprocess(path, client.describe().input)[None]
    outputs = client.predict(images)
    assert outputs["logits"].shape == outputs["probabilities"].shape == (1, 6)
    (prediction,) = client.classify([path])
    assert outputs["probabilities"].max() == pytest.approx(prediction.probability)


@pytest.mark.parametrize(
    ("images", "received"),
    [
        pytest.param(np.zeros((1, 33, 32, 3), np.float32), "float32 (1, 33, 32, 3)", id="other height"),
        pytest.param(np.zeros((1, 32, 32, 1), np.float32), "float32 (1, 32, 32, 1)", id="other channels"),
        pytest.param(np.zeros((32, 32, 3), np.float32), "float32 (32, 32, 3)", id="no batch"),
        pytest.param(np.zeros((1, 32, 32, 3), np.float64), "float64 (1, 32, 32, 3)", id="other dtype"),
        pytest.param(np.zeros((0, 32, 32, 3), np.float32), "float32 (0, 32, 32, 3)", id="no rows"),
        pytest.param([[1.0]], "list", id="a list"),
    ],
)
def test_predict_refuses_tensors_that_the_server_would_not_check(
    client: Client, images: np.ndarray, received: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(received)):
        client.predict(images)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        pytest.param(lambda c: c.classify("cat.jpg"), "images", id="one path"),
        pytest.param(lambda c: c.classify([], top_k=0), "top_k", id="top_k"),
        pytest.param(lambda c: c.classify([], via="raw"), "via.*'raw'", id="via"),
        pytest.param(lambda c: Client("h:1", model=""), "model", id="empty name"),
        pytest.param(lambda c: Client("h:1", model="m", timeout_s=0), "timeout_s.*0", id="no time"),
        pytest.param(lambda c: Client("h:1", model="m", version=1, label="a"), "version.*label", id="both"),
        pytest.param(lambda c: Client("h:1", model="m", version=-1), "version.*-1", id="negative version"),
        pytest.param(lambda c: Client("h:1", model="m", label=""), "label", id="empty label"),
    ],
)
def test_refuses_wrong_arguments_before_a_call(
    client: Client, call: Callable[[Client], object], argument: str
) -> None:
    with pytest.raises(InvalidRequest, match=argument):
        call(client)


def test_names_an_invalid_image(client: Client, image_tree: Path, tmp_path: Path) -> None:
    invalid = tmp_path / "invalid.jpg"
    invalid.write_bytes(b"not an image")
    with pytest.raises(ImageError, match=str(invalid)):
        client.classify([*pictures(image_tree, 2), invalid])


def test_a_missing_server_is_unavailable() -> None:
    with Client("localhost:1", model="tiny") as client, pytest.raises(ServerUnavailable) as caught:
        client.describe()
    for fact in ("localhost:1", "'tiny'", "UNAVAILABLE"):
        assert fact in str(caught.value)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_an_unknown_model(address: str) -> None:
    with Client(address, model="nope") as client, pytest.raises(ModelNotFound, match="nope"):
        client.describe()


def test_a_passed_deadline() -> None:
    """The server accepts the connection and never answers."""
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        silent.listen()
        started = time.monotonic()
        with (
            Client(
                f"localhost:{silent.getsockname()[1]}", model="m", timeout_s=0.3, wait_for_ready=True
            ) as client,
            pytest.raises(DeadlineExceeded),
        ):
            client.describe()
        assert time.monotonic() - started < 5


def test_a_model_without_a_card(tmp_path: Path) -> None:
    tiny_saved_model(tmp_path / "1", 0.5)
    with (
        serving("bare", tmp_path) as (address, _),
        Client(address, model="bare") as client,
        pytest.raises(InvalidRequest, match='"describe"'),
    ):
        client.describe()


def test_waits_for_a_server_that_is_starting(image_tree: Path) -> None:
    address = f"127.0.0.1:{fake_model_server.free_port()}"
    with (
        Client(address, model="m", timeout_s=30, wait_for_ready=True) as client,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(client.classify, pictures(image_tree, 1))
        time.sleep(0.5)
        with fake_model_server.running(address):
            assert len(answer.result()) == 1


def publish_tiny(models: Path, backbone_name: str, labels: list[str], size_px: int = 8) -> None:
    """Publish a version whose probabilities depend on the mean of each preprocessed channel."""
    network = keras.Sequential(
        [
            keras.Input((size_px, size_px, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Rescaling(0.01),
            keras.layers.Dense(len(labels), kernel_initializer=keras.initializers.Identity()),
        ]
    )
    card = ModelCard(
        name="m",
        weights_digest=digest_weights(network),
        labels=labels,
        image_size_px=size_px,
        backbone=find_backbone(backbone_name),
        weights="none",
        data={},
        metrics={},
        config={},
    )
    directory = ModelDirectory(models, "m")
    directory.prepare()
    directory.publish(card, lambda path, text: save_signatures(path, network, card, text))


RED_AND_SOME_BLUE = np.full((12, 12, 3), (250, 0, 120), np.uint8)


@pytest.mark.parametrize("via", ["images", "encoded"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels": ["x", "y", "z"]}, id="other labels"),
        pytest.param({"size_px": 10}, id="other size: the server refuses the old request"),
        pytest.param(
            {"backbone_name": "mobilenetv2"}, id="other preprocessing: the server answers the old request"
        ),
    ],
)
def test_uses_the_new_card_when_a_version_goes_live_between_two_calls(
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


def test_predict_notices_a_live_version_with_another_input(tmp_path: Path) -> None:
    publish_tiny(tmp_path, "vgg16", ["a", "b"])
    with serving("m", tmp_path / "m") as (address, models), Client(address, model="m") as client:
        assert client.predict(np.zeros((1, 8, 8, 3), np.float32))["logits"].shape == (1, 2)
        publish_tiny(tmp_path, "vgg16", ["a", "b"], size_px=10)
        models.poll()
        assert client.predict(np.zeros((1, 10, 10, 3), np.float32))["logits"].shape == (1, 2)
        with pytest.raises(InvalidRequest, match=r"\(N, 10, 10, 3\)"):
            client.predict(np.zeros((1, 8, 8, 3), np.float32))


def test_a_copied_version_has_the_number_under_which_it_is_served(
    tmp_path: Path, published: run.Published, image_tree: Path
) -> None:
    shutil.copytree(published.path, tmp_path / "7")
    with serving("tiny", tmp_path) as (address, _), Client(address, model="tiny") as client:
        assert client.describe().version == 7
        assert client.classify(pictures(image_tree, 1))[0].version == 7


def test_sends_more_than_grpcs_default_message_size(client: Client) -> None:
    """One request holds 4 JPEGs of 2 megapixels, more than 4 MiB together."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG", quality=95)
    assert 4 * len(buffer.getvalue()) > 4 * 2**20
    assert len(client.classify([buffer.getvalue()] * 4, via="encoded")) == 4
