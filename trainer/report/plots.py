"""The plots of a report: learning curves, confusion matrix and calibration."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.report.analysis import calibration_bins, confusion_matrix
from trainer.training import Epoch, SplitResult, best_epoch

_PLOT_DPI = 144  # 1.5 pixels for each CSS pixel, so that plots are sharp on phones
_CSS_DPI = 96
_MOST_NUMBERED = 30
"""With more classes, the cells of a confusion matrix are too small for numbers."""
_MOST_NAMED = 60
"""With more classes, the lines of a confusion matrix are too small for names."""
_TICK_LABEL_LETTERS = 18

_BLUE = "#1f6fb2"
_ORANGE = "#c8590a"
_GRAY = "#8a929c"
_CELLS = LinearSegmentedColormap.from_list("cells", ["#ffffff", "#6aa5da"])
"""Light enough that a black number is readable on every cell."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot on white and its size on a page."""

    png: bytes
    width_px: int
    height_px: int


def write_learning_curves(history: Sequence[Epoch], path: Path) -> None:
    """Draw loss and accuracy of each epoch, training beside validation, and mark the best epoch.

    Args:
      history: at least one epoch, in order.
      path: of the PNG, 1080 × 432 pixels.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        draw_curve(axes, history, key)
    figure.savefig(path, dpi=120)


def curve_plot(history: Sequence[Epoch], key: str) -> Plot:
    """Plot "loss" or "accuracy" of each epoch, training beside validation."""
    return _plot((5.2, 3.5), lambda figure: draw_curve(figure.subplots(), history, key))


def confusion_plot(result: SplitResult) -> Plot:
    """Plot how many images of each class were predicted as which class."""
    side = min(max(2.2 + 0.42 * len(result.classes), 4.4), 11.5)
    return _plot((side, side), partial(_draw_confusion, result))


def calibration_plot(result: SplitResult) -> Plot:
    """Plot how often the predictions are correct, by their probability."""
    return _plot((5.2, 4.4), partial(_draw_calibration, result))


def _plot(size_inches: tuple[float, float], draw: Callable[[Figure], None]) -> Plot:
    figure = Figure(figsize=size_inches, layout="constrained")
    draw(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_PLOT_DPI)
    width_px, height_px = (round(side * _CSS_DPI) for side in size_inches)
    return Plot(file.getvalue(), width_px, height_px)


def draw_curve(axes: Axes, history: Sequence[Epoch], key: str) -> None:
    """Draw "loss" or "accuracy" over the epochs, the best one marked; the x axis runs on into a second phase.

    Args:
      history: at least one epoch, in order.
    """
    numbers = range(1, len(history) + 1)
    size = 5 if len(history) <= 30 else 2
    training = [getattr(epoch, key) for epoch in history]
    validation = [getattr(epoch, f"val_{key}") for epoch in history]
    axes.plot(numbers, training, "o-", color=_BLUE, markersize=size, label="training")
    axes.plot(numbers, validation, "s-", color=_ORANGE, markersize=size, label="validation")
    best = history.index(best_epoch(history))
    axes.axvline(
        best + 1, color=_GRAY, linestyle=":", label=f"best: epoch {best + 1}, {validation[best]:.4f}"
    )
    for number, (before, after) in enumerate(itertools.pairwise(history), start=1):
        if before.phase != after.phase:
            axes.axvline(number + 0.5, color="black", linewidth=1, label=f"{after.phase} begins")
    axes.set(title=key, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _draw_confusion(result: SplitResult, figure: Figure) -> None:
    """Draw a row for each true class: the colour is the share of its images, the number their count."""
    counts = confusion_matrix(result)
    class_count = len(counts)
    axes = figure.subplots()
    axes.imshow(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
        cmap=_CELLS,
        vmin=0,
        vmax=1,
        # Classes are numbered from 1, as in the tables.
        extent=(0.5, class_count + 0.5, class_count + 0.5, 0.5),
        interpolation="nearest" if class_count < 500 else "antialiased",
    )
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    size = 9 if class_count <= 12 else 7 if class_count <= _MOST_NUMBERED else 6
    if class_count <= _MOST_NAMED:
        _name_lines(axes, result.classes, size)
    if class_count > _MOST_NUMBERED:
        return
    for (row, column), count in np.ndenumerate(counts):
        if count:
            text = axes.text(column + 1, row + 1, str(count), ha="center", va="center", fontsize=size)
            text.set_in_layout(False)  # laying out 900 numbers takes seconds, and they fit anyway


def _name_lines(axes: Axes, classes: Sequence[str], size: float) -> None:
    names = [_tick_label(number, name) for number, name in enumerate(classes, start=1)]
    places = range(1, len(names) + 1)
    # A "$" in a name does not start a formula.
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.set_xticks(places, names, fontsize=size, parse_math=False, rotation=90)


def _tick_label(number: int, name: str) -> str:
    """Return the name, shortened to fit the axis, or its number in the tables if the font lacks a letter."""
    if not set(map(ord, name)) <= _drawable():
        return f"#{number}"
    return name if len(name) <= _TICK_LABEL_LETTERS else f"{name[: _TICK_LABEL_LETTERS - 1]}…"


@functools.cache
def _drawable() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())


def _draw_calibration(result: SplitResult, figure: Figure) -> None:
    """Draw each bin's accuracy over its confidence, and below it the number of its images."""
    bins = calibration_bins(result)
    centers = [(one.lower + one.upper) / 2 for one in bins]
    width = 0.94 / len(bins)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(centers, [one.accuracy or 0 for one in bins], width, color=_BLUE, label="accuracy")
    upper.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="perfectly calibrated")
    filled = [(one.confidence, one.accuracy) for one in bins if one.count]
    upper.plot(*zip(*filled, strict=True), "D", color=_ORANGE, markersize=5, label="at mean confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1.04), ylabel="accuracy")
    upper.grid(alpha=0.3)
    # Outside the axes, where it covers no bar.
    figure.legend(fontsize="small", loc="outside upper center", ncols=3)
    lower.bar(centers, [one.count for one in bins], width, color=_GRAY)
    lower.set(xlabel="probability of the predicted class", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    lower.set_xticks([tenth / 10 for tenth in range(0, 11, 2)])
