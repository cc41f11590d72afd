"""Whether a trained model may be published: on exact counts over the current validation split."""

from __future__ import annotations

from trainer.errors import NotGoodEnoughError
from trainer.evaluation import Metrics


def check(candidate: Metrics, min_accuracy: float | None, newest: tuple[int, Metrics] | None) -> None:
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


def _order(metrics: Metrics) -> tuple[int, float]:
    return metrics.correct, -metrics.loss


def _in_words(metrics: Metrics) -> str:
    return f"{metrics.correct} of {metrics.count} right ({metrics.accuracy:.4f}), loss {metrics.loss:.4f}"
