"""What a report says about one split: confusion matrix, per-class metrics, calibration and mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from trainer.training import SplitResult

CALIBRATION_BINS = 10


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class; a ratio is None if its divisor is 0.

    Attributes:
      support: images of this class.
      predicted: images that were predicted as this class.
      precision: share of `predicted` that is of this class, in [0, 1].
      recall: share of `support` that was predicted as this class, in [0, 1].
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
      accuracy: share of correct predictions, None for an empty bin.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image that was predicted as another class, and the probability of that class."""

    path: Path
    truth: str
    predicted: str
    probability: float


def confusion_matrix(result: SplitResult) -> np.ndarray:
    """Count the images by true and by predicted class.

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
    """Compare confidence and accuracy in 10 equal bins of the top probability.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2: the bins are
    ((m - 1) / M, m / M].
    """
    # float32 like the probabilities, so that 0.3 equals the edge 0.3.
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1).astype(np.float32)
    # Rounding may put a softmax a little above 1.
    index = np.clip(np.searchsorted(edges, result.confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    correct = result.predicted == result.truth
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
                _ratio(int(correct[inside].sum()), count),
            )
        )
    return bins


def expected_calibration_error(result: SplitResult) -> float | None:
    """Return the mean over the images of |accuracy - confidence| of their bins, in [0, 1].

    None if there are no images.

    Source: Guo et al. 2017, equation 3.
    """
    gaps = [
        one.count * abs(one.accuracy - one.confidence)
        for one in calibration_bins(result)
        if one.accuracy is not None and one.confidence is not None
    ]
    return _ratio(sum(gaps), len(result.paths))


def most_confident_mistakes(result: SplitResult, most: int) -> list[Mistake]:
    """Return at most `most` mistakes, the most probable first; equal ones in the order of the images."""
    wrong = np.flatnonzero(result.predicted != result.truth)
    by_confidence = wrong[np.argsort(-result.confidence[wrong], kind="stable")]
    return [
        Mistake(
            result.paths[index],
            result.classes[result.truth[index]],
            result.classes[result.predicted[index]],
            float(result.confidence[index]),
        )
        for index in by_confidence[:most]
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
