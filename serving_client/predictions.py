"""What the client returns: the labels of an image, a model's outputs, and the states of its versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serving_client import errors
from serving_client.model_card import ModelCard


@dataclasses.dataclass(frozen=True)
class Score:
    """One label and its probability, from 0 to 1."""

    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
      scores: the top_k labels, most probable first.
      version: the model version that answered.
    """

    scores: tuple[Score, ...]
    version: int

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.scores[0].label

    @property
    def probability(self) -> float:
        """Probability of the most probable label, from 0 to 1."""
        return self.scores[0].probability


class Outputs(Mapping[str, npt.NDArray[Any]]):
    """A model's outputs by name; strings are bytes in arrays of dtype object.

    Attributes:
      version: the model version that answered; None if the server does not say.
      card: its card; None for a model that `python -m trainer` did not export.
    """

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]], version: int | None, card: ModelCard | None
    ) -> None:
        self._arrays = arrays
        self.version = version
        self.card = card

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in self.items())
        return f"Outputs({shapes}; version {self.version})"


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of one model version on the server.

    Attributes:
      state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
      error: why the version failed to load; empty if nothing failed.
    """

    version: int
    state: str
    error: str


def top_predictions(
    outputs: Mapping[str, npt.NDArray[Any]],
    card: ModelCard,
    top_k: int,
    rows: int,
    *,
    nan_is_undecodable: bool,
) -> list[Prediction | errors.ImageError]:
    """Pick the most probable labels of each row.

    Args:
      outputs: "probabilities", float32 (N, K), K labels in the card's order; optionally "decoded", bool (N,):
        false where the model could not decode the image.
      rows: N, the number of images that were sent.
      nan_is_undecodable: whether NaN may stand for an image that the model could not decode, if there is no
        "decoded": versions exported before 0.2.0 answer so.
    Returns:
      A prediction for each row, or an ImageError where the model could not decode the image.
    Raises:
      ServerError: an output is missing or has another shape, or the probabilities are not numbers.
    """
    probabilities = outputs.get("probabilities", np.empty(0))
    if probabilities.shape != (rows, len(card.labels)):
        received = ", ".join(f"{name} {array.shape}" for name, array in sorted(outputs.items()))
        raise errors.ServerError(
            f"The answer must hold 'probabilities' of shape ({rows}, {len(card.labels)}): one row per image, "
            f"one column per label. Received: {received or 'no outputs'}. Check that `python -m trainer` "
            "published this model."
        )
    is_number = np.isfinite(probabilities).all(axis=1)
    decoded = outputs.get("decoded", is_number if nan_is_undecodable else np.ones(rows, bool))
    if not is_number[decoded].all():
        raise errors.ServerError(
            f"Version {card.version} must answer numbers. Received: NaN for an image that it could read. Its "
            "weights have diverged: publish another version."
        )
    reason = "The model cannot decode the image. Save it as PNG."
    if "decoded" not in outputs:
        reason = "The model answers NaN: it cannot decode the image, or its weights have diverged. Try PNG."
    # A stable sort keeps equal probabilities in the order of the labels.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(tuple(Score(card.labels[k], float(row[k])) for k in best), card.version)
        if is_decoded
        else errors.ImageError(reason)
        for row, best, is_decoded in zip(probabilities, order, decoded, strict=True)
    ]
