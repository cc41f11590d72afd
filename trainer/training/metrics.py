"""Metrics of a classifier on one split, from exact counts."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from trainer.model import Loss, top_class


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Figures over one split, each example counted once."""

    count: int
    correct: int
    accuracy: float
    loss: float


def measure_logits(logits: np.ndarray, labels: np.ndarray, loss: Loss) -> Metrics:
    """Compare logits (N, K or 1) with integer labels (N,)."""
    correct = int(np.sum(top_class(logits) == labels))
    return Metrics(len(labels), correct, correct / len(labels), float(np.mean(loss(labels, logits))))


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class SplitResult:
    """A model's predictions for each image of one split, and the true classes.

    Attributes:
      split: its name.
      classes: the K class names in the order of the outputs.
      paths: the N files.
      truth: int32 (N,), indices into `classes`.
      probabilities: float32 (N, K), each row summing to 1.
      loss: mean over the images, if known.
    """

    split: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    truth: np.ndarray
    probabilities: np.ndarray
    loss: float | None = None

    def __post_init__(self) -> None:
        count = len(self.paths)
        if self.truth.shape != (count,) or self.probabilities.shape != (count, len(self.classes)):
            raise ValueError(
                f"truth must be (N,) and probabilities (N, K). Received: N={count}, K={len(self.classes)}, "
                f"truth {self.truth.shape}, probabilities {self.probabilities.shape}."
            )

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """int64 (N,): the class with the highest probability; the first of equal ones."""
        predicted: np.ndarray = self.probabilities.argmax(axis=1)
        return predicted

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """float32 (N,): the highest probability, in [1/K, 1]."""
        confidence: np.ndarray = self.probabilities.max(axis=1)
        return confidence

    @property
    def correct(self) -> int:
        """The number of images that were predicted as their true class."""
        return int(np.sum(self.predicted == self.truth))
