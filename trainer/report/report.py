"""The report of a run or an evaluation: report.html, and the same figures in report.json."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import tensorflow as tf
from PIL import Image

from trainer.data import decode_upright, read_bytes
from trainer.report.analysis import (
    Mistake,
    calibration_bins,
    confusion_matrix,
    expected_calibration_error,
    most_confident_mistakes,
    per_class_metrics,
)
from trainer.report.plots import Plot, calibration_plot, confusion_plot, curve_plot
from trainer.runtime import storage
from trainer.training import Epoch, SplitResult, best_epoch

HTML_NAME = "report.html"
JSON_NAME = "report.json"

_SCHEMA_VERSION = 2
_MISTAKES = 12
_THUMBNAIL_PX = 160


class Timings:
    """Measures how long each stage of a run takes.

    Attributes:
      seconds: by the name of the stage, in the order in which the stages first ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to its stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0) + time.monotonic() - started


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report.

    Attributes:
      title: the model's name, and the version or the run.
      facts: the rows of a table, such as backbone and image size.
      history: epochs in order; a second phase counts from 1 again. Empty if nothing was trained.
      results: of each measured split.
      stages: seconds by the name of the stage.
      image_counts: number of images by the name of the stage that processed them.
      warnings: sentences that a reader must see before the figures.
    """

    title: str
    facts: Mapping[str, str]
    history: Sequence[Epoch]
    results: Sequence[SplitResult]
    stages: Mapping[str, float]
    image_counts: Mapping[str, int]
    warnings: Sequence[str] = ()


def write_report(directory: Path, report: Report) -> None:
    """Write report.html, which needs no other file and no network, and report.json.

    Args:
      directory: must exist.
    Raises:
      StorageError: the files cannot be written.
      ValueError: a figure is not a finite number; nothing is written.
    """
    content = _figures(report)
    as_json = json.dumps(content, allow_nan=False)
    page = _template().render(
        **content,
        plots=_plots(report),
        thumbnails={
            mistake["path"]: _thumbnail(Path(mistake["path"]))
            for split in content["splits"].values()
            for mistake in split["mistakes"]
        },
    )
    with storage.explain_errors("The report cannot be written", directory):
        storage.write_atomically(directory / JSON_NAME, as_json)
        # File names that are not UTF-8 are shown with question marks.
        storage.write_atomically(directory / HTML_NAME, page.encode(errors="replace").decode())


def _figures(report: Report) -> dict[str, Any]:
    """Return every figure of the report as JSON values."""
    history = report.history
    return {
        "schema_version": _SCHEMA_VERSION,
        "title": report.title,
        "warnings": list(report.warnings),
        "facts": dict(report.facts),
        "history": [dataclasses.asdict(epoch) for epoch in history],
        "best_epoch": history.index(best_epoch(history)) + 1 if history else None,
        "splits": {result.split: _split_figures(result) for result in report.results},
        "stages": [
            _stage_figures(name, seconds, report.image_counts.get(name))
            for name, seconds in report.stages.items()
        ],
    }


def _split_figures(result: SplitResult) -> dict[str, Any]:
    count = len(result.paths)
    mistakes = most_confident_mistakes(result, _MISTAKES)
    return {
        "count": count,
        "correct": result.correct,
        "accuracy": result.correct / count if count else None,
        "loss": result.loss,
        "expected_calibration_error": expected_calibration_error(result),
        "classes": list(result.classes),
        "per_class": [dataclasses.asdict(one) for one in per_class_metrics(result)],
        "confusion_matrix": confusion_matrix(result).tolist(),
        "calibration": [dataclasses.asdict(one) for one in calibration_bins(result)],
        "mistakes": [_mistake_figures(one) for one in mistakes],
    }


def _mistake_figures(mistake: Mistake) -> dict[str, Any]:
    return {**dataclasses.asdict(mistake), "path": str(mistake.path)}


def _stage_figures(name: str, seconds: float, images: int | None) -> dict[str, Any]:
    # A stage that found all of its results stored has processed 0 images: it has no throughput.
    rate = images / seconds if images and seconds else None
    return {"name": name, "seconds": seconds, "images": images, "images_per_second": rate}


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, decimals=_decimals, duration=_duration)
    source = resources.files("trainer.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _decimals(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _thumbnail(path: Path) -> str | None:
    """Return a small copy of an image as a data URI; None if the image cannot be read.

    The trainer's decoder, not Pillow's, drops alpha: the thumbnail shows the image as the model sees it.
    """
    try:
        levels = decode_upright(tf.constant(read_bytes(path))).numpy()
    except (OSError, tf.errors.OpError):
        return None
    image = Image.fromarray(levels)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return _data_uri("image/jpeg", file.getvalue())


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _plots(report: Report) -> dict[str, Any]:
    """Return the plots of the history by figure, and those of each split by kind."""
    curves = ("loss", "accuracy") if report.history else ()
    return {
        "history": {key: _embedded(curve_plot(report.history, key)) for key in curves},
        "splits": {
            result.split: {
                "confusion": _embedded(confusion_plot(result)),
                "calibration": _embedded(calibration_plot(result)),
            }
            for result in report.results
        },
    }


def _embedded(plot: Plot) -> dict[str, Any]:
    return {
        "uri": _data_uri("image/png", plot.png),
        "width_px": plot.width_px,
        "height_px": plot.height_px,
    }
