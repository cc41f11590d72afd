"""The model card: the JSON in which an exported model describes its labels, input and training.

The trainer writes the card; the signature `describe` returns it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from serving_client import resizing
from serving_client.errors import ServerError
from serving_client.preprocessing import MODES, InputSpec

SCHEMA_VERSION = 1

# The default of --warmup-batch-size, for cards that do not say it.
_LARGEST_BATCH = 32


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The card of one model version.

    Attributes:
      name: the model's name when it was published.
      version: the number under which the server has it, at least 1.
      labels: class names in the order of the outputs.
      input: size and preprocessing of images.
      raw: the whole card as published: backbone, data, metrics, config, packages, ...
      model_id: what the version is, whatever its number. Its answers carry it. Empty for versions that were
        exported before 0.2.0.
      largest_batch: images that the server was warmed up for in one request.
    """

    name: str
    version: int
    labels: tuple[str, ...]
    input: InputSpec
    raw: Mapping[str, Any]
    model_id: str = ""
    largest_batch: int = _LARGEST_BATCH


def parse_model_card(text: bytes) -> ModelCard:
    """Parse the JSON that the signature `describe` returns.

    Raises:
      ServerError: the text is not a model card, or this client does not support its schema or its input.
    """
    try:
        raw = json.loads(text)
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ServerError(
                f"This client reads model cards of schema_version {SCHEMA_VERSION}. "
                f"Received: {raw['schema_version']}. Install the client of the trainer's release."
            )
        spec = raw["input"]
        known = spec["preprocessing"] in MODES and spec["resize_filter"] in resizing.FILTERS
        exif_orientation = spec.get("exif_orientation", False)
        if not known or spec["channels"] != "RGB" or not isinstance(exif_orientation, bool):
            raise ServerError(
                f"This client cannot produce the input that the model card requires. Received: {spec}. "
                "Install the client of the trainer's release."
            )
        return ModelCard(
            name=raw["name"],
            version=int(raw["version"]),
            labels=tuple(raw["labels"]),
            input=InputSpec(
                int(spec["height_px"]),
                int(spec["width_px"]),
                spec["preprocessing"],
                spec["resize_filter"],
                exif_orientation=exif_orientation,
            ),
            raw=raw,
            model_id=str(raw.get("model_id", "")),
            largest_batch=max(1, int(raw.get("warmup_batch_size", _LARGEST_BATCH))),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"'describe' must return a model card. Received something else ({error!r}). Check that "
            "`python -m trainer` published this model."
        ) from error
