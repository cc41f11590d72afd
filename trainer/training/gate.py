"""Whether a trained model may be published: on exact counts over the current validation split."""

from __future__ import annotations

import numpy as np

from trainer.data import ImageSet
from trainer.errors import DataError, NotGoodEnoughError
from trainer.export import ModelDirectory, PublishedVersion
from trainer.model import loss_function
from trainer.training.metrics import Metrics, measure_logits


def check_gate(candidate: Metrics, min_accuracy: float | None, newest: tuple[int, Metrics] | None) -> None:
    """Compare the candidate with what was asked for.

    Args:
      candidate: of the trained model.
      newest: number and metrics of the newest published version on the same images, if it must be beaten.
    Raises:
      NotGoodEnoughError: it is not good enough.
    """
    came = f"Received: {_in_words(candidate)}."
    if min_accuracy is not None and candidate.accuracy < min_accuracy:
        raise NotGoodEnoughError(
            f"Not published: --min-accuracy asks for a validation accuracy of at least {min_accuracy:g}. "
            f"{came} Train longer or otherwise, or lower it."
        )
    if newest and _order(candidate) <= _order(newest[1]):
        raise NotGoodEnoughError(
            f"Not published: --must-beat-serving asks for more than version {newest[0]}, with "
            f"{_in_words(newest[1])} of the same images. {came} Version {newest[0]} stays."
        )


def newest_version_metrics(
    model_directory: ModelDirectory, validation: ImageSet
) -> tuple[int, Metrics] | None:
    """Return the newest published version and its metrics on the validation images as they are now.

    Raises:
      DataError: it has other classes.
    """
    if not (versions := model_directory.versions()):
        return None
    exported = PublishedVersion.open(model_directory.path / str(versions[-1]))
    if exported.labels != validation.classes:
        raise DataError(
            f"--must-beat-serving compares models with the same classes. Received: {validation.classes}, "
            f"while version {versions[-1]} has {exported.labels}. Leave the flag out, or give another --name."
        )
    logits, _ = exported.answer(validation.paths)
    loss = loss_function("categorical", len(validation.classes))
    return versions[-1], measure_logits(logits, np.array(validation.labels, np.int32), loss)


def _order(metrics: Metrics) -> tuple[int, float]:
    return metrics.correct, -metrics.loss


def _in_words(metrics: Metrics) -> str:
    return f"{metrics.correct} of {metrics.count} right ({metrics.accuracy:.4f}), loss {metrics.loss:.4f}"
