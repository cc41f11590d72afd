"""The gate: whether a trained model may be published, from exact counts over the validation split."""

from __future__ import annotations

import numpy as np

from trainer.data import ImageSet
from trainer.errors import DataError
from trainer.export import ModelDirectory, PublishedVersion
from trainer.model import loss_function
from trainer.training.metrics import Metrics, measure_logits


def gate_refusal(candidate: Metrics, min_accuracy: float | None, newest: tuple[int, Metrics] | None) -> str:
    """Return why a trained model may not be published, in one line; an empty string if it may.

    Args:
      candidate: metrics of the trained model.
      newest: number and metrics of the newest published version on the same images, if it must be beaten.
    """
    received = f"Received: {_summary(candidate)}."
    if min_accuracy is not None and candidate.accuracy < min_accuracy:
        return (
            f"Not published: --min-accuracy requires a validation accuracy of at least {min_accuracy:g}. "
            f"{received} Change the settings or the images, or lower the flag."
        )
    if newest and _rank(candidate) <= _rank(newest[1]):
        return (
            f"Not published: --must-beat-serving requires more than version {newest[0]}, with "
            f"{_summary(newest[1])} of the same images. {received} Version {newest[0]} stays."
        )
    return ""


def newest_version_metrics(
    model_directory: ModelDirectory, validation: ImageSet
) -> tuple[int, Metrics] | None:
    """Return the newest published version, and its metrics on the current validation images.

    Raises:
      DataError: it has other classes, so that nothing can be compared.
    """
    if not (versions := model_directory.versions()):
        return None
    exported = PublishedVersion.open(model_directory.path / str(versions[-1]))
    if exported.labels != validation.classes:
        raise DataError(
            f"--must-beat-serving compares models with the same classes. Received: {validation.classes}, "
            f"while version {versions[-1]} has {exported.labels}. Leave the flag out, or give another --name."
        )
    logits, _ = exported.predict_files(validation.paths)
    loss = loss_function("categorical", len(validation.classes))
    return versions[-1], measure_logits(logits, np.array(validation.labels, np.int32), loss)


def _rank(metrics: Metrics) -> tuple[int, float]:
    return metrics.correct, -metrics.loss


def _summary(metrics: Metrics) -> str:
    return f"{metrics.correct} of {metrics.count} correct ({metrics.accuracy:.4f}), loss {metrics.loss:.4f}"
