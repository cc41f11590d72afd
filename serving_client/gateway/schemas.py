"""The JSON bodies of the HTTP API. /docs shows their descriptions."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from serving_client.model_card import ModelCard
from serving_client.predictions import Prediction
from serving_client.protocol import Result


class Score(BaseModel):
    """One label and its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class ImageResult(BaseModel):
    """The result for one image: `version` and `scores`, or `error`."""

    name: str = Field(description="the file's name in the form, or `image`")
    version: int | None = Field(default=None, description="model version that answered")
    scores: list[Score] | None = Field(default=None, description="most probable label first")
    error: str | None = Field(default=None, description="why this image cannot be classified")


class Classified(BaseModel):
    """The results of a request, in the order of its images."""

    model: str = Field(description="the model's name on the server")
    results: list[ImageResult]


class Problem(BaseModel):
    """An error."""

    detail: str = Field(description="what failed, what was expected and what was received")


class Input(BaseModel):
    """The size that images are resized to, and how their levels are scaled."""

    width_px: int
    height_px: int
    preprocessing: str = Field(description="mode of `preprocess_input`: tf, torch, caffe or none")


class Model(BaseModel):
    """The main facts of the model card."""

    name: str
    version: int
    labels: list[str] = Field(description="in the order of the model's outputs")
    input: Input
    backbone: str | None
    metrics: dict[str, dict[str, float]] = Field(description="metrics by name, for each split of the data")


def image_result(name: str, result: Result) -> ImageResult:
    """Return the JSON for one result of `AsyncClient.stream`."""
    if not isinstance(result, Prediction):
        return ImageResult(name=name, error=str(result))
    scores = [Score(label=score.label, probability=score.probability) for score in result.scores]
    return ImageResult(name=name, version=result.version, scores=scores)


def model(card: ModelCard) -> Model:
    """Return the JSON for a model card. A card that the trainer did not write may lack some facts."""
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
