import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.exif_files import FORMATS, encode, stored_turned
from trainer.config import TrainConfig
from trainer.data.folders import scan_folders
from trainer.data.pipeline import ImageExamples
from trainer.model.classifier import build_classifier
from trainer.runtime.stopping import Stop
from trainer.training import inputs as training_inputs
from trainer.training.distribution import mirrored_devices
from trainer.training.features.cache import FeatureExamples
from trainer.training.feed import Examples
from trainer.training.inputs import TrainingInputs, prepare_inputs
from trainer.training.phases import architecture_of


def prepared(settings: dict[str, Any], tmp_path: Path, **changes: Any) -> TrainingInputs:
    config = TrainConfig(**{**settings, "model_dir": tmp_path, **changes})
    devices = mirrored_devices(2)
    architecture = architecture_of(config, class_count=6)
    with devices.strategy.scope():
        network = build_classifier(architecture)
    splits = scan_folders(config.data).splits
    return prepare_inputs(config, network, splits, architecture.image_size_px, devices, Stop())


def dtype(examples: Examples) -> np.dtype[Any]:
    assert isinstance(examples, FeatureExamples)
    return examples.features[np.arange(1)].dtype


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_evaluated_is_stored_unrounded(settings: dict[str, Any], tmp_path: Path, split: str) -> None:
    inputs = prepared(settings, tmp_path, fine_tune_from="block5")
    assert dtype(inputs.fine_tune["train"]) == np.float16
    assert dtype(inputs.fine_tune[split]) == np.float32
    assert dtype(inputs.head["train"]) == dtype(inputs.head[split]) == np.float32


def test_without_the_cache_the_layers_read_images(settings: dict[str, Any], tmp_path: Path) -> None:
    inputs = prepared(settings, tmp_path, feature_cache=False)
    assert not inputs.are_features and inputs.computed == 0
    assert all(isinstance(examples, ImageExamples) for examples in inputs.head.values())
    assert not (tmp_path / ".feature_cache").exists()


def test_features_of_another_decoding_are_not_used(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(settings, tmp_path).computed
    assert first > 0
    assert prepared(settings, tmp_path).computed == 0
    monkeypatch.setattr(training_inputs, "DECODING", 1)
    assert prepared(settings, tmp_path).computed == first


def write_in_every_orientation(tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders with the same pictures: upright, and stored in all orientations and formats."""
    rng = np.random.default_rng(0)
    upright, stored = tmp_path / "upright", tmp_path / "stored"
    for number in range(48):
        image = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        orientation, format_name = 1 + number % 8, list(FORMATS)[number // 8 % 3]
        file = stored_turned(image, format_name, orientation)
        if format_name == "JPEG":  # an upright one would have other blocks
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        place = Path("train" if number < 24 else "validation", f"class{number % 6}")
        for folder, data in ((upright, encode(image, "PNG")), (stored, file)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / f"{number:02}.png").write_bytes(data)
    return upright, stored


@pytest.mark.parametrize("feature_cache", [True, False])
def test_a_set_in_mixed_orientations_gives_the_features_of_the_upright_set(
    settings: dict[str, Any], tmp_path: Path, feature_cache: bool
) -> None:
    by_folder = []
    for folder in write_in_every_orientation(tmp_path):
        inputs = prepared(
            settings, tmp_path / f"models of {folder.name}", data=folder, feature_cache=feature_cache
        )
        by_folder.append(
            [next(iter(inputs.head[split].batches(np.arange(24), 24)))[0] for split in inputs.head]
        )
    for upright, stored in zip(*by_folder, strict=True):
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(upright))
