"""The model card: what an exported model says of itself, and all that a client needs to know."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from serving_client import resizing
from serving_client.errors import ServerError
from serving_client.preprocessing import MODES, InputSpec

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """One version's card.

    Attributes:
      name: the model's name when it was published.
      version: the number that it is served under, at least 1.
      labels: class names in the order of the outputs.
      input: size and preprocessing of images.
      raw: the whole card as it was published: backbone, data, metrics, config, packages, ...
    """

    name: str
    version: int
    labels: tuple[str, ...]
    input: InputSpec
    raw: Mapping[str, Any]


def parse(text: bytes) -> ModelCard:
    """Read the JSON that the signature `describe` returns.

    Raises:
      ServerError: it is no card, or one of a schema that this client does not know.
    """
    try:
        raw = json.loads(text)
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ServerError(
                f"The model card has schema_version {raw['schema_version']}, and this client reads "
                f"{SCHEMA_VERSION}. Install the client that belongs to the trainer."
            )
        spec = raw["input"]
        known = spec["preprocessing"] in MODES and spec["resize_filter"] in resizing.FILTERS
        if not known or spec["channels"] != "RGB":
            raise ServerError(
                f"The model card asks for an input that this client cannot make: {spec}. "
                "Install the client that belongs to the trainer."
            )
        return ModelCard(
            name=raw["name"],
            version=int(raw["version"]),
            labels=tuple(raw["labels"]),
            input=InputSpec(
                int(spec["height_px"]), int(spec["width_px"]), spec["preprocessing"], spec["resize_filter"]
            ),
            raw=raw,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"The server's answer to 'describe' is no model card ({error!r}). Was this model published "
            "by `python -m trainer`?"
        ) from error
