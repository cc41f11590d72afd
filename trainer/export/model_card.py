"""The model card: what an exported version says of itself, so that a client needs nothing else."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.model import Backbone

CARD_SCHEMA_VERSION = 1
CARD_FILE_NAME = "model_card.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything but the version, which is known only when it is published.

    Attributes:
      labels: class names in the order of the outputs.
      weights: where the backbone's weights came from: "imagenet", "none" or a file's name.
      data: fingerprint and image counts of each split; empty for a pre-trained network.
      metrics: figures of the exported weights on each split that was evaluated.
      config: the resolved settings of the run.
      resize_filter: how images are brought to that size.
      run_id: of the run that made it; empty for a pre-trained network.
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
        """Return the card of this version; `serving_client.card` reads it."""
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
            },
            "backbone": {"name": self.backbone.name, "weights": self.weights},
            "data": self.data,
            "metrics": self.metrics,
            "config": self.config,
            "run_id": self.run_id,
            "packages": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
            },
        }
        return json.dumps(card, indent=2, ensure_ascii=False, default=str, allow_nan=False)
