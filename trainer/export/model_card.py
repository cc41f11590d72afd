"""The model card: an exported version's description of itself, complete enough for a client."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import keras
import numpy as np

from trainer.config import ResizeFilter, TrainConfig
from trainer.model import Backbone

CARD_SCHEMA_VERSION = 1
CARD_FILE_NAME = "model_card.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model card without the version number, which is chosen when the version is published.

    Attributes:
      weights_digest: of the exported network, from `digest_weights`.
      labels: class names in the order of the outputs.
      weights: source of the backbone's weights: "imagenet", "none" or a file's name.
      data: fingerprint and image counts of each split; empty for a pre-trained network.
      metrics: of the exported weights on each split that was evaluated.
      config: the resolved settings of the run.
      run_id: the run that made it; empty for a pre-trained network.
      resize_filter: how images are resized to image_size_px.
      warmup_batch_size: the largest batch among the warm-up requests. Clients send no larger one.
    """

    name: str
    weights_digest: str
    labels: Sequence[str]
    image_size_px: int
    backbone: Backbone
    weights: str
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    run_id: str = ""
    resize_filter: ResizeFilter = "bilinear"
    warmup_batch_size: int = TrainConfig.warmup_batch_size

    @property
    def input(self) -> dict[str, Any]:
        """What a client must do to an image."""
        return {
            "height_px": self.image_size_px,
            "width_px": self.image_size_px,
            "channels": "RGB",
            "preprocessing": self.backbone.mode,
            "resize_filter": self.resize_filter,
            "exif_orientation": True,
        }

    @property
    def model_id(self) -> str:
        """What the version is, whatever its number: 16 hex digits.

        It is a digest of all that decides what an answer means: network, weights, labels and input. Every
        answer carries it, so a client knows which card to read the answer with.
        """
        content = [self.backbone.name, self.weights_digest, list(self.labels), self.input]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def to_json(self, version: int) -> str:
        """Return the card of this version as JSON. `serving_client.model_card` reads it."""
        card = {
            "schema_version": CARD_SCHEMA_VERSION,
            "name": self.name,
            "version": version,
            "model_id": self.model_id,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "labels": list(self.labels),
            "input": self.input,
            "warmup_batch_size": self.warmup_batch_size,
            "backbone": {"name": self.backbone.name, "weights": self.weights},
            "data": self.data,
            "metrics": self.metrics,
            "config": self.config,
            "run_id": self.run_id,
            "packages": {
                "python": platform.python_version(),
                **{package: package_version(package) for package in ("tensorflow", "keras", "numpy")},
            },
        }
        return json.dumps(card, indent=2, ensure_ascii=False, default=str, allow_nan=False)


def digest_weights(network: keras.Model) -> str:
    """Return a SHA-256 (hex) of a network's weights: their shapes, dtypes and values, in order."""
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def package_version(package: str) -> str:
    """Return the version of an installed package, without importing it.

    A distribution of another name may provide it: tensorflow-cpu provides tensorflow.

    Returns:
      The version, or "unknown" if no installed distribution provides the package.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        providers = metadata.packages_distributions().get(package, ())
        return metadata.version(providers[0]) if providers else "unknown"
