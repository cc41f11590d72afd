from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from serving_client import Client
from tests.conftest import serving
from trainer import __main__ as cli
from trainer.export.pretrained import export_pretrained, imagenet_labels


def test_the_1000_labels_are_readable_and_in_imagenets_order() -> None:
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert labels[0] == "tench"
    assert labels[1] == "goldfish"
    assert labels[281] == "tabby"
    assert labels[963] == "pizza"
    assert labels[999] == "toilet tissue"


def test_a_network_is_served_with_no_training_at_all(
    tmp_path: Path, image_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "export-pretrained",
        "--backbone",
        "mobilenetv3small",
        "--weights",
        "none",
        "--model-dir",
        str(tmp_path),
    ]
    assert cli.main(argv) == 0
    assert f"Published {tmp_path}/mobilenetv3small/1" in capsys.readouterr().out
    picture = image_tree / "test" / "sun" / "000.jpg"
    with (
        serving("mobilenetv3small", tmp_path / "mobilenetv3small") as (address, _),
        Client(address, model="mobilenetv3small", timeout_s=60) as client,
    ):
        card = client.describe()
        assert len(card.labels) == 1000
        assert card.input.shape == (224, 224, 3)
        for via in ("images", "encoded"):
            (prediction,) = client.classify([picture], top_k=5, via=via)
            assert len(prediction.scores) == 5
            assert all(score.label in card.labels for score in prediction.scores)


def test_its_answers_are_keras_own(tmp_path: Path, image_tree: Path) -> None:
    from trainer.model.backbones import build_imagenet_classifier, find_backbone

    backbone = find_backbone("mobilenetv2")
    network = build_imagenet_classifier(backbone, "none")
    weights = tmp_path / "top.weights.h5"
    network.save_weights(weights)
    path = export_pretrained("mobilenetv2", str(weights), tmp_path, "m", image_tree / "test")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    served = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(served["logits"], network(images, training=False), rtol=0, atol=1e-6)
