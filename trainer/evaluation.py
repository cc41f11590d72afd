"""Metrics of a classifier on one split, from exact counts."""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer.classifier import Loss, top_class


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Figures over one split, each example counted once."""

    count: int
    correct: int
    accuracy: float
    loss: float


def measure(logits: np.ndarray, labels: np.ndarray, loss: Loss) -> Metrics:
    """Compare logits (N, K or 1) with integer labels (N,)."""
    correct = int(np.sum(top_class(logits) == labels))
    return Metrics(len(labels), correct, correct / len(labels), float(np.mean(loss(labels, logits))))
