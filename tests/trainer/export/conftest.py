"""One version that is exported without training, for every test of this package that changes nothing."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import keras
import pytest

from tests.conftest import IMAGE_SIZE_PX
from trainer.data import ImageExamples, scan_split
from trainer.export import ModelCard, ModelDirectory, check_and_write_warmup, digest_weights, save_signatures
from trainer.model import find_backbone
from trainer.model.networks import build_features

LARGEST_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Exported:
    """A published version, and what it was exported from."""

    path: Path
    card: ModelCard
    network: keras.Model
    examples: ImageExamples


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, image_tree: Path, weights_file: Path) -> Exported:
    """Version 1 of the model "tiny": VGG16 with an untrained head, for 60 images of 6 classes."""
    backbone = find_backbone("vgg16")
    images = scan_split(image_tree / "validation")
    features = build_features(backbone, IMAGE_SIZE_PX, str(weights_file))
    head = keras.layers.Dense(
        len(images.classes), kernel_initializer=keras.initializers.GlorotUniform(seed=0)
    )
    network = keras.Model(features.input, head(features.output))
    examples = ImageExamples(images, backbone, IMAGE_SIZE_PX)
    card = ModelCard(
        name="tiny",
        weights_digest=digest_weights(network),
        labels=images.classes,
        image_size_px=IMAGE_SIZE_PX,
        backbone=backbone,
        weights=weights_file.name,
        data={},
        metrics={},
        config={},
        warmup_batch_size=LARGEST_BATCH,
    )
    directory = ModelDirectory(tmp_path_factory.mktemp("exported"), "tiny")
    directory.prepare()
    version = directory.publish(
        card,
        lambda staging, text: save_signatures(staging, network, card, text),
        lambda staging: check_and_write_warmup(staging, network, examples),
    )
    return Exported(directory.path / str(version), card, network, examples)


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, frozenset[str]]]:
    """Each path that is synced to disk from now on, with the names in tmp_path/m at that moment."""
    calls: list[tuple[Path, frozenset[str]]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append((path, frozenset(os.listdir(tmp_path / "m"))))

    monkeypatch.setattr(os, "fsync", record)
    return calls
