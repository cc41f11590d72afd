import contextlib
import dataclasses
import io
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving_client import Client
from tests.conftest import serving
from trainer import __main__ as cli
from trainer.export.pretrained import imagenet_labels
from trainer.export.warmup import WARMUP_FILE_NAME
from trainer.model import build_imagenet_classifier, find_backbone


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A version of `export-pretrained`, its output, and the network that it was made from."""

    path: Path
    output: str
    network: keras.Model


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    directory = tmp_path_factory.mktemp("pretrained")
    network = build_imagenet_classifier(find_backbone("mobilenetv2"), "none")
    weights = directory / "top.weights.h5"
    network.save_weights(weights)
    output = io.StringIO()
    flags = ["--backbone", "mobilenetv2", "--weights", str(weights), "--model-dir", str(directory / "models")]
    with contextlib.redirect_stdout(output):
        assert cli.main(["export-pretrained", *flags]) == 0
    return Pretrained(directory / "models" / "mobilenetv2" / "1", output.getvalue(), network)


def test_the_1000_labels_are_readable_and_in_imagenets_order() -> None:
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert labels[0] == "tench"
    assert labels[1] == "goldfish"
    assert labels[281] == "tabby"
    assert labels[963] == "pizza"
    assert labels[999] == "toilet tissue"


def test_the_command_prints_the_version_and_writes_its_warm_up_file(pretrained: Pretrained) -> None:
    assert str(pretrained.path) in pretrained.output
    assert (pretrained.path / "assets.extra" / WARMUP_FILE_NAME).stat().st_size > 0


def test_a_client_gets_predictions_through_both_signatures(pretrained: Pretrained, image_tree: Path) -> None:
    image = image_tree / "test" / "sun" / "000.jpg"
    with (
        serving("mobilenetv2", pretrained.path.parent) as (address, _),
        Client(address, model="mobilenetv2", timeout_s=60) as client,
    ):
        card = client.describe()
        assert len(card.labels) == 1000
        assert card.input.shape == (224, 224, 3)
        for via in ("images", "encoded"):
            (prediction,) = client.classify([image], top_k=5, via=via)
            assert len(prediction.scores) == 5
            assert all(score.label in card.labels for score in prediction.scores)


def test_the_logits_are_those_of_the_keras_network(pretrained: Pretrained) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    loaded = tf.saved_model.load(str(pretrained.path))
    served = loaded.signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(
        served["logits"], pretrained.network(images, training=False), rtol=0, atol=1e-6
    )
