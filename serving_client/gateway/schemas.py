"""JSON bodies, as the OpenAPI page shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from serving_client.card import ModelCard
from serving_client.codec import Prediction
from serving_client.protocol import Result


class Score(BaseModel):
    """One label."""

    label: str
    probability: float = Field(ge=0, le=1)


class ImageResult(BaseModel):
    """One image: its scores, or why there are none."""

    name: str = Field(description="the file's name, the URL, or `image`")
    version: int | None = Field(default=None, description="model version that answered")
    scores: list[Score] | None = Field(default=None, description="most probable label first")
    error: str | None = Field(default=None, description="why this image could not be read")


class Classified(BaseModel):
    """The images of a request, in their order."""

    model: str
    results: list[ImageResult]


class Problem(BaseModel):
    """What failed, what was expected, what came."""

    detail: str


class Urls(BaseModel):
    """Pictures that the gateway fetches itself, from hosts that it was told to allow."""

    urls: list[str] = Field(min_length=1)


class Input(BaseModel):
    """What pictures are brought to."""

    width_px: int
    height_px: int
    preprocessing: str


class Model(BaseModel):
    """The model card, as far as a caller wants it."""

    name: str
    version: int
    labels: list[str]
    input: Input
    backbone: str | None
    metrics: dict[str, dict[str, float]]


def image_result(name: str, result: Result) -> ImageResult:
    """Return the JSON of one result of `AsyncClient.stream`."""
    if not isinstance(result, Prediction):
        return ImageResult(name=name, error=str(result))
    scores = [Score(label=score.label, probability=score.probability) for score in result.scores]
    return ImageResult(name=name, version=result.version, scores=scores)


def model(card: ModelCard) -> Model:
    """Return the JSON of a card; what another program's card lacks stays empty."""
    metrics: dict[str, Any] = card.raw.get("metrics") or {}
    return Model(
        name=card.name,
        version=card.version,
        labels=list(card.labels),
        input=Input(
            width_px=card.input.width_px, height_px=card.input.height_px, preprocessing=card.input.mode
        ),
        backbone=(card.raw.get("backbone") or {}).get("name"),
        metrics={
            split: {name: value for name, value in figures.items() if isinstance(value, (int, float))}
            for split, figures in metrics.items()
        },
    )
