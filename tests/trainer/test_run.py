import json
import math
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer import run
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError, NotGoodEnoughError
from trainer.export import signatures
from trainer.export.published import PublishedVersion
from trainer.model.classifier import loss_function
from trainer.training.metrics import measure_logits


def test_publishes_version_1_that_has_learnt(published: run.Published) -> None:
    assert published.path.name == "1"
    assert set(published.metrics) == {"validation", "test"}
    assert published.metrics["validation"].accuracy >= 0.8
    assert published.metrics["validation"].count == 60


def test_the_card_tells_how_it_came_about(published: run.Published, settings: dict[str, Any]) -> None:
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
    assert (published.run_directory / "best.weights.h5").stat().st_size > 0
    with Image.open(published.run_directory / "learning_curves.png") as curves:
        assert curves.size == (1080, 432)
    assert published.run_directory.parent.name == ".runs"
    report = json.loads((published.run_directory / "report.json").read_text())
    stages = ["checks", "network", "frozen layers", "head", "evaluation"]
    assert [stage["name"] for stage in report["stages"]] == stages
    assert not (published.run_directory / "checkpoint.npz").exists()  # the run is over


def test_tensorboard_gets_each_epoch(published: run.Published) -> None:
    for split, key in (("train", "accuracy"), ("validation", "val_accuracy")):
        (events,) = (published.run_directory / "tensorboard" / split).iterdir()
        values = [
            float(tf.make_ndarray(value.tensor))
            for event in tf.compat.v1.train.summary_iterator(str(events))
            for value in event.summary.value
            if value.tag == "epoch_accuracy"
        ]
        assert values == pytest.approx([epoch[key] for epoch in history_of(published)])


def history_of(published: run.Published) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = json.loads((published.run_directory / "history.json").read_text())
    return history


def test_the_plain_loop_gives_the_same_history(tmp_path: Path, settings: dict[str, Any]) -> None:
    """2 replicas with stored features, 1 replica running the backbone in every epoch."""
    stored = run.train(TrainConfig(model_dir=tmp_path / "stored", **settings))
    plain = run.train(
        TrainConfig(
            model_dir=tmp_path / "plain",
            **{**settings, "feature_cache": False, "cpu_replicas": 1, "batch_size": 16},
        )
    )
    assert_same_history(stored, plain)


def assert_same_history(left: run.Published, right: run.Published, rel_tol: float = 1e-4) -> None:
    for one, other in zip(history_of(left), history_of(right), strict=True):
        assert one["phase"] == other["phase"]
        assert math.isclose(one["loss"], other["loss"], rel_tol=rel_tol)
        assert math.isclose(one["val_loss"], other["val_loss"], rel_tol=rel_tol)


def test_fine_tuning_on_stored_activations_equals_the_plain_loop(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The head, then block 5 of VGG16 too, on two augmented copies beside each image."""
    changes = {
        "fine_tune_from": "block5",
        "fine_tune_learning_rate": 1e-4,
        "fine_tune_epochs": 2,
        "augment_views": 2,
        "epochs": 2,
        "model_dir": tmp_path,
    }
    stored = run.train(TrainConfig(**{**settings, **changes, "cache_dtype": "float32"}))
    halves = run.train(TrainConfig(**{**settings, **changes}))
    plain = run.train(TrainConfig(**{**settings, **changes, "feature_cache": False}))
    assert [epoch["phase"] for epoch in history_of(stored)] == ["head"] * 2 + ["fine-tune"] * 2
    assert_same_history(stored, plain)
    assert_same_history(stored, halves, rel_tol=1e-2)
    card = json.loads((stored.path / "assets.extra" / "model_card.json").read_text())
    paths = sorted(Path(str(settings["data"])).glob("validation/*/*"))
    logits, _ = PublishedVersion.open(stored.path).answer(paths)
    labels = [card["labels"].index(path.parent.name) for path in paths]
    assert int(np.sum(logits.argmax(1) == labels)) == stored.metrics["validation"].correct


def test_fine_tuning_changes_the_layers_from_there_on_and_no_other(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    changes = {
        "fine_tune_from": "block5",
        "fine_tune_learning_rate": 1e-4,
        "fine_tune_epochs": 4,
        "epochs": 1,
    }
    published = run.train(TrainConfig(**{**settings, **changes, "model_dir": tmp_path}))
    best = max(history_of(published), key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))
    assert best["phase"] == "fine-tune"
    before = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    before.load_weights(settings["weights"])
    variables = tf.saved_model.load(str(published.path)).variables
    values: dict[tuple[int, ...], list[Any]] = {tuple(value.shape): [] for value in before.get_weights()}
    for variable in variables:
        values.setdefault(tuple(variable.shape), []).append(variable.numpy())
    for layer in before.layers:
        for weight in layer.get_weights():
            kept = any(np.array_equal(weight, value) for value in values[weight.shape])
            # Biases of untrained layers are all zero, and one of them is like another.
            assert kept == (not layer.name.startswith("block5")) or not weight.any()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_publishes_float32_and_says_what_that_measures(
    tmp_path: Path, settings: dict[str, Any], precision: str
) -> None:
    changes = {
        "precision": precision,
        "fine_tune_from": "block5",
        "fine_tune_epochs": 1,
        "model_dir": tmp_path,
        "epochs": 5,
    }
    published = run.train(TrainConfig(**{**settings, **changes}))
    paths = sorted(Path(str(settings["data"])).glob("validation/*/*"))
    exported = PublishedVersion.open(published.path)
    logits, _ = exported.answer(paths)
    labels = [exported.labels.index(path.parent.name) for path in paths]
    assert int(np.sum(logits.argmax(1) == labels)) == published.metrics["validation"].correct
    measured = history_of(published)[-1]
    assert published.metrics["validation"].loss == pytest.approx(measured["val_loss"], rel=0.05)
    assert keras.config.dtype_policy().name == "float32"  # of whatever comes next in this process


def test_a_named_run_that_has_published_publishes_no_second_version(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = TrainConfig(**{**settings, "model_dir": tmp_path, "run_id": "nightly", "epochs": 1})
    first = run.train(config)
    assert run.train(config) == first
    # Killed after the version was there and before the run could say so.
    (first.run_directory / "outcome.json").unlink()
    again = run.train(config)
    assert again.path == first.path
    assert [path.name for path in (tmp_path / "tiny").glob("[0-9]*")] == ["1"]


def test_bad_images_are_skipped_if_that_is_wanted(
    tmp_path: Path, image_tree: Path, settings: dict[str, Any]
) -> None:
    """Seen by their header or only when they are decoded; the others are trained on."""
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "train" / "sun" / "000.jpg").write_bytes(b"")
    (data / "train" / "sun" / "001.jpg").write_bytes(b"a text")
    whole = (data / "train" / "moon" / "000.jpg").read_bytes()
    (data / "train" / "moon" / "000.jpg").write_bytes(whole[: len(whole) // 2])
    changes = {"data": data, "on_invalid_image": "skip", "model_dir": tmp_path / "models", "epochs": 1}
    for feature_cache in (True, False):
        published = run.train(TrainConfig(**{**settings, **changes, "feature_cache": feature_cache}))
        listed = json.loads((published.run_directory / "invalid_images.json").read_text())
        reasons = {Path(one["path"]).relative_to(data).as_posix(): one["reason"] for one in listed}
        assert reasons.keys() == {"train/sun/000.jpg", "train/sun/001.jpg", "train/moon/000.jpg"}
        assert reasons["train/sun/000.jpg"] == "zero bytes"
        assert "Invalid JPEG data" in reasons["train/moon/000.jpg"]
        card = json.loads((published.path / "assets.extra" / "model_card.json").read_text())
        assert card["data"]["train"]["per_class"]["sun"] == 6
        assert card["data"]["train"]["per_class"]["moon"] == 7


def test_bad_images_that_fail_the_run_are_listed_too(
    tmp_path: Path, image_tree: Path, settings: dict[str, Any]
) -> None:
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "train" / "sun" / "000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/sun/000.jpg \(zero bytes\).*--on-invalid-image"):
        run.train(TrainConfig(**{**settings, "data": data, "model_dir": tmp_path / "models"}))
    (listed,) = (tmp_path / "models" / "tiny").glob(".runs/*/invalid_images.json")
    assert [one["reason"] for one in json.loads(listed.read_text())] == ["zero bytes"]


def test_a_model_that_is_not_good_enough_is_not_published_and_stays_in_its_run(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = TrainConfig(
        **{**settings, "model_dir": tmp_path, "min_accuracy": 1.0, "epochs": 1, "run_id": "poor"}
    )
    for _ in range(2):  # the second start does not train again
        with pytest.raises(NotGoodEnoughError, match=r"at least 1\. Received: \d+ of 60 right"):
            run.train(config)
    assert not list((tmp_path / "tiny").glob("[0-9]*"))
    left = {path.name for path in (tmp_path / "tiny" / ".runs" / "poor").iterdir()}
    assert {"best.weights.h5", "report.html", "history.json", "outcome.json"} <= left


def test_a_model_must_beat_the_newest_version_on_the_images_of_today(
    tmp_path: Path, image_tree: Path, settings: dict[str, Any]
) -> None:
    beat = {**settings, "model_dir": tmp_path, "must_beat_serving": True}
    poor = run.train(TrainConfig(**{**beat, "epochs": 1}))
    good = run.train(TrainConfig(**beat))
    assert good.metrics["validation"].correct > poor.metrics["validation"].correct
    with pytest.raises(NotGoodEnoughError, match=r"more than version 2.*Version 2 stays"):
        run.train(TrainConfig(**{**beat, "epochs": 1, "seed": 1}))
    assert sorted(path.name for path in (tmp_path / "tiny").glob("[0-9]*")) == ["1", "2"]
    fewer = shutil.copytree(image_tree, tmp_path / "fewer")
    for split in ("train", "validation", "test"):
        shutil.rmtree(fewer / split / "sun")
    with pytest.raises(DataError, match="compares models with the same classes"):
        run.train(TrainConfig(**{**beat, "data": fewer, "epochs": 1}))


def test_old_versions_go_but_not_one_that_a_label_names(tmp_path: Path, settings: dict[str, Any]) -> None:
    labels = tmp_path / "models.config"
    labels.write_text(
        'model_config_list { config { name: "tiny" base_path: "/models/tiny" '
        'model_platform: "tensorflow" version_labels { key: "stable" value: 1 } } }'
    )
    config = TrainConfig(
        **{**settings, "model_dir": tmp_path, "epochs": 1, "keep_versions": 2, "model_config": labels}
    )
    for _ in range(4):
        run.train(config)
    assert sorted(path.name for path in (tmp_path / "tiny").glob("[0-9]*")) == ["1", "3", "4"]


def test_a_model_config_that_breaks_during_the_run_is_a_warning_and_the_version_is_there(
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = tmp_path / "models.config"
    labels.write_text("model_config_list {}")
    save = signatures.save_signatures

    def breaking(*args: Any) -> None:
        labels.write_text("model_config_list {")
        save(*args)

    monkeypatch.setattr(signatures, "save", breaking)
    changes = {"model_dir": tmp_path, "epochs": 1, "keep_versions": 1, "model_config": labels}
    published = run.train(TrainConfig(**{**settings, **changes}))
    assert (published.path / "saved_model.pb").exists()
    assert "the old versions stay, until the next run removes them. --model-config must be" in caplog.text


def test_the_resize_filter_goes_the_whole_way(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Into training, cache, card and graph: the exported version answers as training measured."""
    changes = {"resize_filter": "nearest", "model_dir": tmp_path, "epochs": 3}
    published = run.train(TrainConfig(**{**settings, **changes}))
    exported = PublishedVersion.open(published.path)
    assert exported.card["input"]["resize_filter"] == "nearest"
    paths = sorted(Path(str(settings["data"])).glob("validation/*/*"))
    logits, _ = exported.answer(paths)
    labels = np.array([exported.labels.index(path.parent.name) for path in paths], np.int32)
    loss = loss_function("categorical", 6)
    assert measure_logits(logits, labels, loss).loss == pytest.approx(
        published.metrics["validation"].loss, rel=1e-4
    )
    run.train(TrainConfig(**{**settings, **changes, "resize_filter": "bilinear"}))
    assert len(list((tmp_path / ".feature_cache").iterdir())) == 2


@pytest.fixture
def two_classes(image_tree: Path, tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        for name in ("moon", "sun"):
            shutil.copytree(image_tree / split / name, tmp_path / "two" / split / name)
    return tmp_path / "two"


@pytest.mark.parametrize("class_mode", ["binary", "sparse", "categorical"])
def test_each_class_mode_answers_with_one_probability_a_label(
    tmp_path: Path, two_classes: Path, settings: dict[str, Any], class_mode: str
) -> None:
    published = run.train(
        TrainConfig(
            model_dir=tmp_path / "models",
            **{**settings, "data": two_classes, "class_mode": class_mode, "hidden_units": 8, "dropout": 0.2},
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


def test_binary_with_six_classes_is_refused_before_a_run_begins(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="exactly two classes. Received: 6"):
        run.train(TrainConfig(model_dir=tmp_path / "models", **{**settings, "class_mode": "binary"}))
    assert not list((tmp_path / "models").glob("*/.runs"))


@pytest.mark.parametrize("feature_cache", [True, False])
def test_a_corrupt_image_of_any_split_is_named_before_the_first_epoch(
    tmp_path: Path, image_tree: Path, settings: dict[str, Any], feature_cache: bool
) -> None:
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "test" / "sun" / "000.jpg").write_bytes(b"\xff\xd8\xff garbage")
    changes = {"data": data, "feature_cache": feature_cache}
    with pytest.raises(DataError, match=r"1 of 120 images cannot be used.*test/sun/000.jpg"):
        run.train(TrainConfig(model_dir=tmp_path / "models", **{**settings, **changes}))
    assert not list((tmp_path / "models" / "tiny").glob("[0-9]*"))
    assert not list((tmp_path / "models" / "tiny").glob(".runs/*/history.json"))


def test_a_second_run_publishes_version_2_beside_version_1(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = TrainConfig(model_dir=tmp_path, **{**settings, "epochs": 1})
    first = run.train(config)
    before = (first.path / "saved_model.pb").read_bytes()
    second = run.train(config)
    assert second.path.name == "2"
    assert (first.path / "saved_model.pb").read_bytes() == before
    assert len(list((tmp_path / "tiny" / ".runs").iterdir())) == 2
