import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer import run
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError


def test_publishes_version_1_that_has_learnt(published: run.Published) -> None:
    assert published.path.name == "1"
    assert set(published.metrics) == {"validation", "test"}
    assert published.metrics["validation"].accuracy >= 0.8
    assert published.metrics["validation"].count == 60


def test_the_card_tells_how_it_came_about(published: run.Published, settings: dict[str, object]) -> None:
    card = json.loads((published.path / "assets.extra" / "model_card.json").read_text())
    assert card["labels"] == ["fish", "flower", "house", "moon", "sun", "tree"]
    assert card["input"] == {
        "height_px": 32,
        "width_px": 32,
        "channels": "RGB",
        "preprocessing": "caffe",
        "resize_filter": "bilinear",
    }
    assert card["backbone"] == {"name": "vgg16", "weights": "vgg16.weights.h5"}
    assert card["data"]["train"]["images"] == 48
    assert len(card["data"]["train"]["fingerprint"]) == 64
    assert card["metrics"]["validation"]["correct"] == published.metrics["validation"].correct
    assert card["config"]["learning_rate"] == settings["learning_rate"]
    assert card["packages"]["tensorflow"] == tf.__version__


def test_the_run_directory_keeps_settings_history_and_best_weights(published: run.Published) -> None:
    history = json.loads((published.run_directory / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == list(range(1, 11))
    assert max(epoch["val_accuracy"] for epoch in history) == published.metrics["validation"].accuracy
    assert json.loads((published.run_directory / "config.json").read_text())["name"] == "tiny"
    assert (published.run_directory / "best_head.weights.h5").stat().st_size > 0
    with Image.open(published.run_directory / "learning_curves.png") as curves:
        assert curves.size == (1080, 432)
    assert published.run_directory.parent.name == ".runs"


def history_of(published: run.Published) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((published.run_directory / "history.json").read_text())
    return history


def test_the_plain_loop_gives_the_same_history(tmp_path: Path, settings: dict[str, object]) -> None:
    """2 replicas with stored features, 1 replica running the backbone in every epoch."""
    stored = run.train(TrainConfig(model_dir=tmp_path / "stored", **settings))
    plain = run.train(
        TrainConfig(
            model_dir=tmp_path / "plain",
            **{**settings, "prefix_cache": False, "cpu_replicas": 1, "batch_size": 16},
        )
    )
    for left, right in zip(history_of(stored), history_of(plain), strict=True):
        assert math.isclose(left["loss"], right["loss"], rel_tol=1e-4)
        assert math.isclose(left["val_loss"], right["val_loss"], rel_tol=1e-4)


@pytest.fixture
def two_classes(image_tree: Path, tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        for name in ("moon", "sun"):
            shutil.copytree(image_tree / split / name, tmp_path / "two" / split / name)
    return tmp_path / "two"


@pytest.mark.parametrize("class_mode", ["binary", "sparse", "categorical"])
def test_each_class_mode_answers_with_one_probability_a_label(
    tmp_path: Path, two_classes: Path, settings: dict[str, object], class_mode: str
) -> None:
    published = run.train(
        TrainConfig(
            model_dir=tmp_path / "models",
            **{**settings, "data": two_classes, "class_mode": class_mode, "inner_size": 8, "dropout": 0.2},
        )
    )
    serve = tf.saved_model.load(str(published.path)).signatures["encoded_images"]
    paths = sorted(two_classes.glob("validation/*/*.jpg"))
    answer = serve(encoded=tf.constant([path.read_bytes() for path in paths]))
    probabilities = answer["probabilities"].numpy()
    assert probabilities.shape == answer["logits"].shape == (20, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    labels = [("moon", "sun").index(path.parent.name) for path in paths]
    assert int(np.sum(probabilities.argmax(1) == labels)) == published.metrics["validation"].correct


def test_binary_with_six_classes_is_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="exactly two classes. Received: 6"):
        run.train(TrainConfig(model_dir=tmp_path / "models", **{**settings, "class_mode": "binary"}))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_corrupt_image_of_any_split_is_named_before_the_first_epoch(
    tmp_path: Path, image_tree: Path, settings: dict[str, object], prefix_cache: bool
) -> None:
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "test" / "sun" / "000.jpg").write_bytes(b"\xff\xd8\xff garbage")
    changes = {"data": data, "prefix_cache": prefix_cache}
    with pytest.raises(DataError, match=r"1 of 120 images cannot be decoded.*test/sun/000.jpg"):
        run.train(TrainConfig(model_dir=tmp_path / "models", **{**settings, **changes}))
    assert not list((tmp_path / "models" / "tiny").glob("[0-9]*"))
    assert not list((tmp_path / "models" / "tiny").glob(".runs/*/history.json"))


def test_a_second_run_publishes_version_2_beside_version_1(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    config = TrainConfig(model_dir=tmp_path, **{**settings, "epochs": 1})
    first = run.train(config)
    before = (first.path / "saved_model.pb").read_bytes()
    second = run.train(config)
    assert second.path.name == "2"
    assert (first.path / "saved_model.pb").read_bytes() == before
    assert len(list((tmp_path / "tiny" / ".runs").iterdir())) == 2
