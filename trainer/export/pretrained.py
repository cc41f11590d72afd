"""Publish a pre-trained ImageNet network without training it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from trainer.config import check_model_name
from trainer.data import ImageExamples, scan_split
from trainer.export.model_card import ModelCard, digest_weights
from trainer.export.publishing import ModelDirectory
from trainer.export.release import check_and_write_warmup
from trainer.export.signatures import save_signatures
from trainer.model import build_imagenet_classifier, find_backbone


def export_pretrained(backbone_name: str, weights: str, model_dir: Path, name: str, pictures: Path) -> Path:
    """Publish MODEL_DIR/NAME/VERSION with the 1,000 ImageNet classes.

    Args:
      weights: "imagenet", "none" or a .weights.h5 file of the network with its top.
      pictures: folders CLASS/* of any images, for the export check and the warm-up requests.
    Raises:
      TrainerError: one of its subclasses. Nothing is published then.
    """
    check_model_name(name)
    backbone = find_backbone(backbone_name)
    model_directory = ModelDirectory(model_dir, name)
    model_directory.prepare()
    network = build_imagenet_classifier(backbone, weights)
    card = ModelCard(
        name=name,
        weights_digest=digest_weights(network),
        labels=imagenet_labels(),
        image_size_px=backbone.native_size_px,
        backbone=backbone,
        weights=Path(weights).name,
        data={},
        metrics={},
        config={"command": "export-pretrained"},
    )
    examples = ImageExamples(scan_split(pictures), backbone, backbone.native_size_px)
    version = model_directory.publish(
        card,
        lambda staging, text: save_signatures(staging, network, card, text),
        lambda staging: check_and_write_warmup(staging, network, examples),
    )
    return model_directory.path / str(version)


def imagenet_labels() -> list[str]:
    """Return the 1,000 ImageNet class names in the order of every keras.applications network."""
    text = resources.files("trainer.export").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return text.splitlines()
