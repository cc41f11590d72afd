from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.config import TrainConfig
from trainer.data.folders import scan_folders
from trainer.data.pipeline import ImageExamples
from trainer.model.classifier import build_classifier
from trainer.runtime.stopping import Stop
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
