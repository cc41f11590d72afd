"""Publish an ImageNet network as it is: a pre-trained classifier is served with no training at all."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

from trainer import backbones, images, release, sample, signatures
from trainer.config import TrainConfig, check_model_name
from trainer.model_card import ModelCard
from trainer.pipeline import ImageExamples
from trainer.publishing import ModelDirectory


def export_pretrained(backbone_name: str, weights: str, model_dir: Path, name: str) -> Path:
    """Publish MODEL_DIR/NAME/VERSION with the 1,000 ImageNet classes.

    Args:
      weights: "imagenet", "none" or a .weights.h5 file of the network with its top.
    Raises:
      TrainerError: one of its family, before anything is published.
    """
    check_model_name(name)
    backbone = backbones.find(backbone_name)
    model_directory = ModelDirectory(model_dir, name)
    model_directory.prepare()
    network = backbones.build_imagenet_classifier(backbone, weights)
    card = ModelCard(
        name=name,
        labels=imagenet_labels(),
        image_size_px=backbone.native_size_px,
        backbone=backbone,
        weights=Path(weights).name,
        data={},
        metrics={},
        config={"command": "export-pretrained"},
    )
    with tempfile.TemporaryDirectory() as drawings:
        sample.write_sample(Path(drawings, "images"), train_per_class=1)
        examples = ImageExamples(
            images.scan_split(Path(drawings, "images", "test")), backbone, backbone.native_size_px
        )
        version = model_directory.publish(
            card,
            lambda directory, text: signatures.save(
                directory, network, backbone, backbone.native_size_px, text
            ),
            lambda staging: release.prepare(staging, network, examples, TrainConfig.warmup_batch_size),
        )
    return model_directory.path / str(version)


def imagenet_labels() -> list[str]:
    """Return the 1,000 ImageNet class names in the order of every keras.applications network."""
    text = resources.files("trainer").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return text.splitlines()
