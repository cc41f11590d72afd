"""Metrics of a classifier on one split, from exact counts."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from trainer.model import Loss, top_class

CALIBRATION_BINS = 10


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
    """What a model said about each image of one split, and what is right.

    Attributes:
      split: its name.
      classes: the K class names in the order of the outputs.
      paths: the N files.
      truth: int32 (N,), indices into `classes`.
      probabilities: float32 (N, K), each row summing to 1.
      loss: mean over the images, if it is known.
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
        """int64 (N,): the class with the highest probability; of equal ones the first."""
        predicted: np.ndarray = self.probabilities.argmax(axis=1)
        return predicted

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """float32 (N,): the highest probability, in [1/K, 1]."""
        confidence: np.ndarray = self.probabilities.max(axis=1)
        return confidence

    @property
    def correct(self) -> int:
        """How many images got their own class."""
        return int(np.sum(self.predicted == self.truth))


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """How one class fared; None where there is nothing to divide by.

    Attributes:
      support: images of this class.
      predicted: images that were taken for this class.
      precision: share of the predicted that are of this class, in [0, 1].
      recall: share of the support that was found, in [0, 1].
      f1: harmonic mean of the two, 2 TP / (2 TP + FP + FN): 0 for a class that was never predicted.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """The images whose top probability lies in (lower, upper].

    Attributes:
      confidence: mean top probability, None for an empty bin.
      accuracy: share of right answers, None for an empty bin.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class, and how probable the model found that."""

    path: Path
    truth: str
    predicted: str
    probability: float


def confusion_matrix(result: SplitResult) -> np.ndarray:
    """Count the images by class and by what they were taken for.

    Returns:
      int64 (K, K): a row for each true class, a column for each predicted one.
    """
    class_count = len(result.classes)
    cell = result.truth.astype(np.int64) * class_count + result.predicted
    return np.bincount(cell, minlength=class_count**2).reshape(class_count, class_count)


def per_class_metrics(result: SplitResult) -> list[ClassMetrics]:
    """Return each class's precision, recall and F1, in the order of `classes`."""
    counts = confusion_matrix(result)
    return [
        ClassMetrics(
            name=name,
            support=support,
            predicted=predicted,
            precision=_ratio(hits, predicted),
            recall=_ratio(hits, support),
            f1=_ratio(2 * hits, predicted + support),
        )
        for name, hits, predicted, support in zip(
            result.classes,
            counts.diagonal().tolist(),
            counts.sum(axis=0).tolist(),
            counts.sum(axis=1).tolist(),
            strict=True,
        )
    ]


def calibration_bins(result: SplitResult) -> list[CalibrationBin]:
    """Compare how sure the model is with how often it is right, in 10 equal bins of the top probability.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2: the bins are
    ((m - 1) / M, m / M].
    """
    # float32, as the probabilities: 0.3 is then the edge, and not a little above it.
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1).astype(np.float32)
    # A softmax may come out a little above 1.
    index = np.clip(np.searchsorted(edges, result.confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    right = result.predicted == result.truth
    bins = []
    for number in range(CALIBRATION_BINS):
        inside = index == number
        count = int(inside.sum())
        bins.append(
            CalibrationBin(
                number / CALIBRATION_BINS,
                (number + 1) / CALIBRATION_BINS,
                count,
                _ratio(float(result.confidence[inside].sum(dtype=np.float64)), count),
                _ratio(int(right[inside].sum()), count),
            )
        )
    return bins


def expected_calibration_error(result: SplitResult) -> float | None:
    """Return the mean over the images of |accuracy - confidence| of their bins, in [0, 1]; None without any.

    Source: Guo et al. 2017, equation 3.
    """
    gaps = [
        one.count * abs(one.accuracy - one.confidence)
        for one in calibration_bins(result)
        if one.accuracy is not None and one.confidence is not None
    ]
    return _ratio(sum(gaps), len(result.paths))


def most_confident_mistakes(result: SplitResult, most: int) -> list[Mistake]:
    """Return at most so many mistakes, the surest first; equally sure ones in the order of the images."""
    wrong = np.flatnonzero(result.predicted != result.truth)
    surest_first = wrong[np.argsort(-result.confidence[wrong], kind="stable")]
    return [
        Mistake(
            result.paths[index],
            result.classes[result.truth[index]],
            result.classes[result.predicted[index]],
            float(result.confidence[index]),
        )
        for index in surest_first[:most]
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
