import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.pictures import undecodable_picture
from trainer import run
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError, NotGoodEnoughError
from trainer.export import PublishedVersion
from trainer.model import loss_function
from trainer.runtime.stopping import Stop
from trainer.training import Devices, Metrics, measure_logits

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, settings: Settings, published: run.Published) -> Settings:
    """Settings of one epoch on features that are stored already."""
    cache = tmp_path_factory.mktemp("features") / "cache"
    shutil.copytree(published.path.parent.parent / ".feature_cache", cache)
    return {**settings, "epochs": 1, "cpu_replicas": 1, "batch_size": 16, "cache_dir": cache}


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory, quick: Settings) -> run.Published:
    """Version 1 after a single epoch; tests must not change it."""
    return run.train(TrainConfig(**{**quick, "model_dir": tmp_path_factory.mktemp("poor")}))


@pytest.fixture
def model_dir(poor: run.Published, tmp_path: Path) -> Path:
    """A copy of the model directory of `poor`."""
    return Path(shutil.copytree(poor.path.parent.parent, tmp_path / "models"))


def versions(model_dir: Path) -> list[str]:
    return sorted(path.name for path in (model_dir / "tiny").glob("[0-9]*"))


def test_the_first_version_is_1_and_is_accurate(published: run.Published) -> None:
    assert published.path.name == "1"
    assert set(published.metrics) == {"validation", "test"}
    assert published.metrics["validation"].accuracy >= 0.8
    assert published.metrics["validation"].count == 60


def test_the_model_card_describes_the_run(published: run.Published, settings: Settings) -> None:
    card = json.loads((published.path / "assets.extra" / "model_card.json").read_text())
    assert card["labels"] == ["fish", "flower", "house", "moon", "sun", "tree"]
    assert card["input"] == {
        "height_px": 32,
        "width_px": 32,
        "channels": "RGB",
        "preprocessing": "caffe",
        "resize_filter": "bilinear",
        "exif_orientation": True,
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
    assert not (published.run_directory / "checkpoint.npz").exists()  # the run has ended


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


def test_the_plain_loop_gives_the_same_history(
    tmp_path: Path, quick: Settings, published: run.Published
) -> None:
    """2 replicas with stored features, 1 replica that runs the backbone in every epoch."""
    changes = {"model_dir": tmp_path, "feature_cache": False, "epochs": 3}
    plain = run.train(TrainConfig(**{**quick, **changes}))
    assert_same_history(history_of(published)[:3], history_of(plain))


def assert_same_history(
    left: list[dict[str, Any]], right: list[dict[str, Any]], rel_tol: float = 1e-4
) -> None:
    for one, other in zip(left, right, strict=True):
        assert one["phase"] == other["phase"]
        assert math.isclose(one["loss"], other["loss"], rel_tol=rel_tol)
        assert math.isclose(one["val_loss"], other["val_loss"], rel_tol=rel_tol)


@pytest.fixture(scope="module")
def fine_tuning(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Settings:
    """The head, then block 5 of VGG16 too, on two augmented copies beside each image."""
    return {
        **settings,
        "fine_tune_from": "block5",
        "fine_tune_learning_rate": 1e-4,
        "fine_tune_epochs": 3,
        "augment_views": 2,
        "epochs": 1,
        "model_dir": tmp_path_factory.mktemp("fine-tuned"),
    }


@pytest.fixture(scope="module")
def fine_tuned(fine_tuning: Settings) -> run.Published:
    return run.train(TrainConfig(**{**fine_tuning, "cache_dtype": "float32"}))


@pytest.mark.parametrize(
    ("changes", "rel_tol"),
    [
        pytest.param({"feature_cache": False}, 1e-4, id="plain loop"),
        pytest.param({"cache_dtype": "float16"}, 1e-2, id="half precision"),
    ],
)
def test_fine_tuning_on_stored_activations_gives_the_same_history(
    fine_tuning: Settings, fine_tuned: run.Published, changes: Settings, rel_tol: float
) -> None:
    other = run.train(TrainConfig(**{**fine_tuning, **changes, "cpu_replicas": 1, "batch_size": 16}))
    assert [epoch["phase"] for epoch in history_of(other)] == ["head"] + ["fine-tune"] * 3
    assert_same_history(history_of(fine_tuned), history_of(other), rel_tol)


def test_a_fine_tuned_version_answers_as_measured(fine_tuned: run.Published, settings: Settings) -> None:
    assert measured_again(fine_tuned, settings).correct == fine_tuned.metrics["validation"].correct


def measured_again(published: run.Published, settings: Settings) -> Metrics:
    """Measure the exported version on the validation images."""
    exported = PublishedVersion.open(published.path)
    paths = sorted(Path(str(settings["data"])).glob("validation/*/*"))
    logits, _ = exported.predict_files(paths)
    labels = np.array([exported.labels.index(path.parent.name) for path in paths], np.int32)
    return measure_logits(logits, labels, loss_function("categorical", len(exported.labels)))


def test_fine_tuning_changes_the_named_layers_and_no_others(
    fine_tuned: run.Published, settings: Settings
) -> None:
    best = max(history_of(fine_tuned), key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))
    assert best["phase"] == "fine-tune"
    before = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    before.load_weights(settings["weights"])
    variables = tf.saved_model.load(str(fine_tuned.path)).variables
    values: dict[tuple[int, ...], list[Any]] = {tuple(value.shape): [] for value in before.get_weights()}
    for variable in variables:
        values.setdefault(tuple(variable.shape), []).append(variable.numpy())
    for layer in before.layers:
        for weight in layer.get_weights():
            kept = any(np.array_equal(weight, value) for value in values[weight.shape])
            # Biases of untrained layers are all zero, so any two of them are equal.
            assert kept == (not layer.name.startswith("block5")) or not weight.any()


@pytest.mark.parametrize(
    "precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.soak)]
)
def test_a_mixed_precision_run_exports_and_measures_float32(
    tmp_path: Path, settings: Settings, precision: str
) -> None:
    changes = {
        "precision": precision,
        "fine_tune_from": "block5",
        "fine_tune_epochs": 1,
        "model_dir": tmp_path,
        "epochs": 3,
    }
    published = run.train(TrainConfig(**{**settings, **changes}))
    assert measured_again(published, settings).correct == published.metrics["validation"].correct
    measured = history_of(published)[-1]
    assert published.metrics["validation"].loss == pytest.approx(measured["val_loss"], rel=0.05)
    assert keras.config.dtype_policy().name == "float32"  # for whatever this process does next


def test_a_named_run_publishes_one_version_however_often_it_is_started(
    tmp_path: Path, quick: Settings
) -> None:
    config = TrainConfig(**{**quick, "model_dir": tmp_path, "run_id": "nightly"})
    first = run.train(config)
    assert run.train(config) == first
    # As if it had been killed after publishing and before recording that.
    (first.run_directory / "outcome.json").unlink()
    assert run.train(config).path == first.path
    assert versions(tmp_path) == ["1"]


def test_the_run_has_ended_before_the_chief_lets_the_other_workers_go(
    model_dir: Path, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a chief that is killed in between would start again, and wait for workers that are done."""
    outcome = model_dir / "tiny" / ".runs" / "once" / "outcome.json"
    has_ended: dict[str, bool] = {}
    broadcast_from_chief = Devices.broadcast_from_chief

    def spy(devices: Devices, text: str) -> str:
        has_ended[text] = outcome.exists()
        return broadcast_from_chief(devices, text)

    monkeypatch.setattr(Devices, "broadcast_from_chief", spy)
    published = run.train(TrainConfig(**{**quick, "model_dir": model_dir, "run_id": "once"}))
    assert has_ended == {"once": False, "": False, published.path.name: True}


@pytest.mark.parametrize("feature_cache", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_invalid_images_are_skipped_if_asked_for(
    tmp_path: Path, image_tree: Path, quick: Settings, feature_cache: bool
) -> None:
    """Found by their header or only by decoding them; the run trains on the others."""
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "train" / "sun" / "000.jpg").write_bytes(b"")
    (data / "train" / "sun" / "001.jpg").write_bytes(b"a text")
    (data / "train" / "moon" / "000.jpg").write_bytes(undecodable_picture())
    changes = {"data": data, "on_invalid_image": "skip", "feature_cache": feature_cache}
    published = run.train(TrainConfig(**{**quick, **changes, "model_dir": tmp_path / "models"}))
    listed = json.loads((published.run_directory / "invalid_images.json").read_text())
    reasons = {Path(one["path"]).relative_to(data).as_posix(): one["reason"] for one in listed}
    assert reasons.keys() == {"train/sun/000.jpg", "train/sun/001.jpg", "train/moon/000.jpg"}
    assert all(reasons.values())
    card = json.loads((published.path / "assets.extra" / "model_card.json").read_text())
    assert card["data"]["train"]["per_class"]["sun"] == 6
    assert card["data"]["train"]["per_class"]["moon"] == 7


def test_invalid_images_that_fail_the_run_are_listed_too(
    tmp_path: Path, image_tree: Path, quick: Settings
) -> None:
    data = shutil.copytree(image_tree, tmp_path / "images")
    empty = data / "train" / "sun" / "000.jpg"
    empty.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{empty}.*--on-invalid-image"):
        run.train(TrainConfig(**{**quick, "data": data, "model_dir": tmp_path / "models"}))
    (listed,) = (tmp_path / "models" / "tiny").glob(".runs/*/invalid_images.json")
    assert [one["path"] for one in json.loads(listed.read_text())] == [str(empty)]


def test_a_model_below_the_minimum_is_not_published_and_stays_in_its_run(
    tmp_path: Path, quick: Settings
) -> None:
    config = TrainConfig(**{**quick, "model_dir": tmp_path, "min_accuracy": 1.0, "run_id": "poor"})
    with pytest.raises(NotGoodEnoughError, match=r"\d+ of 60") as first:
        run.train(config)
    with pytest.raises(NotGoodEnoughError) as second:  # without training again
        run.train(config)
    assert str(second.value) == str(first.value)
    assert versions(tmp_path) == []
    left = {path.name for path in (tmp_path / "tiny" / ".runs" / "poor").iterdir()}
    assert {"best.weights.h5", "report.html", "history.json", "outcome.json"} <= left


def test_a_better_model_is_published_beside_the_one_that_it_must_beat(
    model_dir: Path, poor: run.Published, quick: Settings
) -> None:
    before = (model_dir / "tiny" / "1" / "saved_model.pb").read_bytes()
    beat = {**quick, "model_dir": model_dir, "must_beat_serving": True}
    good = run.train(TrainConfig(**{**beat, "epochs": 10}))
    assert good.metrics["validation"].correct > poor.metrics["validation"].correct
    assert good.path == model_dir / "tiny" / "2"
    assert good.run_directory.name != poor.run_directory.name
    assert (model_dir / "tiny" / "1" / "saved_model.pb").read_bytes() == before


def test_a_model_that_does_not_beat_the_newest_version_is_not_published(
    model_dir: Path, quick: Settings
) -> None:
    same = {**quick, "model_dir": model_dir, "must_beat_serving": True}
    with pytest.raises(NotGoodEnoughError, match="version 1"):
        run.train(TrainConfig(**same))
    assert versions(model_dir) == ["1"]


def test_a_model_is_not_compared_with_a_version_of_other_classes(
    model_dir: Path, image_tree: Path, tmp_path: Path, quick: Settings
) -> None:
    fewer = shutil.copytree(image_tree, tmp_path / "fewer")
    for split in ("train", "validation", "test"):
        shutil.rmtree(fewer / split / "sun")
    changes = {"data": fewer, "model_dir": model_dir, "must_beat_serving": True}
    with pytest.raises(DataError, match="--must-beat-serving"):
        run.train(TrainConfig(**{**quick, **changes}))


def test_old_versions_are_removed_unless_a_label_names_them(model_dir: Path, quick: Settings) -> None:
    for version in ("2", "3"):
        shutil.copytree(model_dir / "tiny" / "1", model_dir / "tiny" / version)
    labels = model_dir / "models.config"
    labels.write_text(
        'model_config_list { config { name: "tiny" base_path: "/models/tiny" '
        'model_platform: "tensorflow" version_labels { key: "stable" value: 1 } } }'
    )
    run.train(TrainConfig(**{**quick, "model_dir": model_dir, "keep_versions": 2, "model_config": labels}))
    assert versions(model_dir) == ["1", "3", "4"]


def test_a_model_config_that_breaks_during_the_run_removes_no_version(
    model_dir: Path, quick: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    labels = model_dir / "models.config"
    labels.write_text("model_config_list {}")

    class Breaking(Stop):
        """Breaks the file when the run asks whether to stop, which it does after its first checks."""

        def check(self) -> None:
            labels.write_text("model_config_list {")

    changes = {"model_dir": model_dir, "keep_versions": 1, "model_config": labels}
    published = run.train(TrainConfig(**{**quick, **changes}), Breaking())
    assert (published.path / "saved_model.pb").exists()
    assert versions(model_dir) == ["1", "2"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("--model-config" in warning for warning in warnings)


def test_the_resize_filter_reaches_training_cache_card_and_graph(tmp_path: Path, quick: Settings) -> None:
    """The exported version answers as training measured, on features of its own."""
    cache = Path(shutil.copytree(quick["cache_dir"], tmp_path / "cache"))
    changes = {"resize_filter": "nearest", "model_dir": tmp_path, "epochs": 3, "cache_dir": cache}
    published = run.train(TrainConfig(**{**quick, **changes}))
    card = json.loads((published.path / "assets.extra" / "model_card.json").read_text())
    assert card["input"]["resize_filter"] == "nearest"
    expected = published.metrics["validation"].loss
    assert measured_again(published, quick).loss == pytest.approx(expected, rel=1e-4)
    assert len(list(cache.iterdir())) == len(list(quick["cache_dir"].iterdir())) + 1


@pytest.fixture
def two_classes(image_tree: Path, tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        for name in ("moon", "sun"):
            shutil.copytree(image_tree / split / name, tmp_path / "two" / split / name)
    return tmp_path / "two"


@pytest.mark.parametrize(
    "class_mode", ["binary", "sparse", pytest.param("categorical", marks=pytest.mark.soak)]
)
def test_each_class_mode_answers_with_one_probability_per_label(
    tmp_path: Path, two_classes: Path, quick: Settings, class_mode: str
) -> None:
    changes = {"data": two_classes, "class_mode": class_mode, "hidden_units": 8, "dropout": 0.2, "epochs": 5}
    published = run.train(TrainConfig(**{**quick, **changes, "model_dir": tmp_path / "models"}))
    serve = tf.saved_model.load(str(published.path)).signatures["encoded_images"]
    paths = sorted(two_classes.glob("validation/*/*.jpg"))
    answer = serve(encoded=tf.constant([path.read_bytes() for path in paths]))
    probabilities = answer["probabilities"].numpy()
    assert probabilities.shape == answer["logits"].shape == (20, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    labels = [("moon", "sun").index(path.parent.name) for path in paths]
    assert int(np.sum(probabilities.argmax(1) == labels)) == published.metrics["validation"].correct


def test_binary_with_six_classes_is_refused_before_a_run_begins(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"Received: 6\b"):
        run.train(TrainConfig(model_dir=tmp_path / "models", **{**settings, "class_mode": "binary"}))
    assert not list((tmp_path / "models").glob("*/.runs"))


@pytest.mark.parametrize("feature_cache", [True, False])
def test_a_corrupt_image_of_any_split_is_named_before_the_first_epoch(
    tmp_path: Path, image_tree: Path, quick: Settings, feature_cache: bool
) -> None:
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "test" / "sun" / "000.jpg").write_bytes(undecodable_picture())
    changes = {"data": data, "feature_cache": feature_cache}
    with pytest.raises(DataError, match=r"1 of 120 images.*test/sun/000.jpg"):
        run.train(TrainConfig(**{**quick, **changes, "model_dir": tmp_path / "models"}))
    assert versions(tmp_path / "models") == []
    assert not list((tmp_path / "models" / "tiny").glob(".runs/*/history.json"))
