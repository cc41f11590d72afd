"""What a fake model server serves: models, their versions and labels, as a test scripts them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tests.model_servers.pictures import CLASSES

MODEL = "m"


@dataclasses.dataclass(frozen=True)
class Version:
    """A version that classifies the pictures of `pictures.py`.

    Attributes:
      number: under which the server has it.
      labels: class names in the order of the outputs.
      size_px: height and width of its input.
      mode: its preprocessing, one of `serving_client.preprocessing.MODES`.
      identity: False for a version that 0.1.0 exported: card and answers name no identity.
      claimed_id: the identity in its answers, if it is not that of its card.
    """

    number: int = 1
    labels: tuple[str, ...] = CLASSES
    size_px: int = 8
    mode: str = "tf"
    identity: bool = True
    claimed_id: str | None = None

    @property
    def model_id(self) -> str:
        """A digest of what decides what its answers mean, whatever its number."""
        content = json.dumps([self.labels, self.input])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def input(self) -> dict[str, Any]:
        """The card's `input`."""
        return {
            "height_px": self.size_px,
            "width_px": self.size_px,
            "channels": "RGB",
            "preprocessing": self.mode,
            "resize_filter": "bilinear",
        }

    def card(self) -> str:
        """Return the model card that `describe` returns."""
        card = {
            "schema_version": 1,
            "name": MODEL,
            "version": self.number,
            "labels": self.labels,
            "input": self.input,
            "warmup_batch_size": 32,
            "metrics": {},
        }
        return json.dumps({**card, "model_id": self.model_id} if self.identity else card)


@dataclasses.dataclass(frozen=True)
class ForeignVersion:
    """A version that another program exported, without a card. It answers `sums` float32 (N,) of its inputs.

    Attributes:
      number: under which the server has it.
      inputs: dtype and shape of one row, by name.
    """

    number: int
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Model:
    """The versions of one model.

    Attributes:
      versions: that are loaded, by number.
      labels: the number that each version label stands for.
      others: the state of each version that is not loaded: "LOADING" or "END".
    """

    versions: Mapping[int, Version | ForeignVersion] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    others: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Script:
    """All that a fake server does.

    Attributes:
      models: by name.
      delay_s: time that each Predict takes.
      max_rows: of one request, as with --enable_batching; 0 has no limit.
      failures: gRPC status names with which the next Predict calls fail, one each.
    """

    models: Mapping[str, Model] = dataclasses.field(default_factory=dict)
    delay_s: float = 0.0
    max_rows: int = 0
    failures: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the script as one line."""
        return json.dumps(dataclasses.asdict(self))


def parse_script(text: str) -> Script:
    """Read what `Script.to_json` wrote."""
    raw = json.loads(text)
    models = {
        name: Model(
            {int(number): _parse_version(version) for number, version in model["versions"].items()},
            model["labels"],
            {int(number): state for number, state in model["others"].items()},
        )
        for name, model in raw.pop("models").items()
    }
    return Script(models=models, **{**raw, "failures": tuple(raw["failures"])})


def _parse_version(raw: Mapping[str, Any]) -> Version | ForeignVersion:
    if "inputs" in raw:
        inputs = {name: (dtype, tuple(shape)) for name, (dtype, shape) in raw["inputs"].items()}
        return ForeignVersion(raw["number"], inputs)
    return Version(**{**raw, "labels": tuple(raw["labels"])})
