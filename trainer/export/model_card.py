"""The model card: an exported version's description of itself, complete enough for a client."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from trainer.config import ResizeFilter
from trainer.model import Backbone

CARD_SCHEMA_VERSION = 1
CARD_FILE_NAME = "model_card.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model card without the version number, which is chosen when the version is published.

    Attributes:
      labels: class names in the order of the outputs.
      weights: source of the backbone's weights: "imagenet", "none" or a file's name.
      data: fingerprint and image counts of each split; empty for a pre-trained network.
      metrics: of the exported weights on each split that was evaluated.
      config: the resolved settings of the run.
      run_id: the run that made it; empty for a pre-trained network.
      resize_filter: how images are resized to image_size_px.
    """

    name: str
    labels: Sequence[str]
    image_size_px: int
    backbone: Backbone
    weights: str
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    run_id: str = ""
    resize_filter: ResizeFilter = "bilinear"

    def to_json(self, version: int) -> str:
        """Return the card of this version as JSON. `serving_client.card` reads it."""
        card = {
            "schema_version": CARD_SCHEMA_VERSION,
            "name": self.name,
            "version": version,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "labels": list(self.labels),
            "input": {
                "height_px": self.image_size_px,
                "width_px": self.image_size_px,
                "channels": "RGB",
                "preprocessing": self.backbone.mode,
                "resize_filter": self.resize_filter,
                "exif_orientation": True,
            },
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
