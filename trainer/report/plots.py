"""The pictures of a report: learning curves, confusion matrix, calibration."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.training import Epoch, SplitResult, calibration_bins, confusion_matrix

_PLOT_DPI = 144  # 1.5 pixels for each of CSS, so that screens of phones have enough of them
_CSS_DPI = 96
_MOST_NUMBERED = 30
"""With more classes, the cells of a confusion matrix are too small for numbers."""
_MOST_NAMED = 60
"""With more classes, the lines of a confusion matrix are too small for names."""
_TICK_LABEL_LETTERS = 18


@dataclasses.dataclass(frozen=True)
class _Look:
    """Colours of a plot, for one of the two schemes that a browser asks for."""

    paper: str
    ink: str
    faint: str
    first: str
    second: str

    def rc(self) -> Any:  # the type of its keys is a list of matplotlib's 300 settings
        inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
        return {
            "figure.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "legend.facecolor": self.paper,
            "axes.edgecolor": self.faint,
            "legend.edgecolor": self.faint,
            "grid.color": self.faint,
            "xtick.color": self.faint,
            "ytick.color": self.faint,
            **dict.fromkeys(inked, self.ink),
        }


_LIGHT = _Look(paper="#ffffff", ink="#1d232b", faint="#8a929c", first="#1f6fb2", second="#c8590a")
_DARK = _Look(paper="#1a1e24", ink="#e6e9ed", faint="#77808b", first="#6cb2ff", second="#ffab5c")


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot as two PNGs, for light and dark pages, and its size on a page."""

    light: bytes
    dark: bytes
    width_px: int
    height_px: int


def write_learning_curves(history: Sequence[Epoch], path: Path) -> None:
    """Draw loss and accuracy of each epoch, training beside validation, the best epoch marked.

    Args:
      history: at least one epoch, in order.
      path: where the PNG goes, 1080 × 432 pixels.
    """
    with mpl.rc_context(_LIGHT.rc()):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, key in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            _draw_curve(axes, history, key, _LIGHT)
        figure.savefig(path, dpi=120)


def curve_plot(history: Sequence[Epoch], key: str) -> Plot:
    """Draw "loss" or "accuracy" of each epoch, training beside validation."""
    return _plot((5.2, 3.5), partial(_draw_curve_alone, history, key))


def confusion_plot(result: SplitResult) -> Plot:
    """Draw how many images of each class were taken for which."""
    return _plot(_confusion_size(result), partial(_draw_confusion, result))


def calibration_plot(result: SplitResult) -> Plot:
    """Draw how often the model is right, by how sure it is."""
    return _plot((5.2, 4.4), partial(_draw_calibration, result))


def _plot(size_inches: tuple[float, float], draw: Callable[[Figure, _Look], None]) -> Plot:
    width_px, height_px = (round(side * _CSS_DPI) for side in size_inches)
    return Plot(_png(size_inches, draw, _LIGHT), _png(size_inches, draw, _DARK), width_px, height_px)


def _png(size_inches: tuple[float, float], draw: Callable[[Figure, _Look], None], look: _Look) -> bytes:
    with mpl.rc_context(look.rc()):
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(figure, look)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_PLOT_DPI)
    return file.getvalue()


def best_place(history: Sequence[Epoch]) -> int:
    """Return the place in the history, from 0, of the epoch whose weights were kept."""
    best = 0
    for index, epoch in enumerate(history):
        if epoch.is_better_than(history[best]):
            best = index
    return best


def _draw_curve_alone(history: Sequence[Epoch], key: str, figure: Figure, look: _Look) -> None:
    _draw_curve(figure.subplots(), history, key, look)


def _draw_curve(axes: Axes, history: Sequence[Epoch], key: str, look: _Look) -> None:
    places = range(1, len(history) + 1)
    size = 5 if len(history) <= 30 else 2
    training = [getattr(epoch, key) for epoch in history]
    validation = [getattr(epoch, f"val_{key}") for epoch in history]
    axes.plot(places, training, "o-", color=look.first, markersize=size, label="training")
    axes.plot(places, validation, "s-", color=look.second, markersize=size, label="validation")
    best = best_place(history)
    label = f"best: epoch {best + 1}, {validation[best]:.4f}"
    axes.axvline(best + 1, color=look.faint, linestyle=":", label=label)
    for place, (before, after) in enumerate(itertools.pairwise(history), start=1):
        if before.phase != after.phase:
            axes.axvline(place + 0.5, color=look.ink, linewidth=1, label=f"{after.phase} begins")
    axes.set(title=key, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _confusion_size(result: SplitResult) -> tuple[float, float]:
    side = min(max(2.2 + 0.42 * len(result.classes), 4.4), 11.5)
    return side, side


def _draw_confusion(result: SplitResult, figure: Figure, look: _Look) -> None:
    """Draw a row for each true class: the colour is the share of its images, the number their count."""
    counts = confusion_matrix(result)
    class_count = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colors = LinearSegmentedColormap.from_list("paper to ink", [look.paper, look.first])
    axes = figure.subplots()
    axes.imshow(
        shares,
        cmap=colors,
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
            cell = _luminance(colors(shares[row, column]))
            color = max(look.paper, look.ink, key=lambda text: _contrast(_luminance(text), cell))
            text = axes.text(
                column + 1, row + 1, str(count), ha="center", va="center", color=color, fontsize=size
            )
            text.set_in_layout(False)  # laying out 900 numbers takes seconds, and they lie inside anyway


def _name_lines(axes: Axes, classes: Sequence[str], size: float) -> None:
    names = [_tick_label(number, name) for number, name in enumerate(classes, start=1)]
    places = range(1, len(names) + 1)
    # A name is text: "$" in it begins no formula.
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.set_xticks(places, names, fontsize=size, parse_math=False, rotation=90)


def _luminance(color: Any) -> float:
    """Return the relative luminance of a colour, in [0, 1]. Source: WCAG 2.2."""
    levels = np.array(to_rgb(color))
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _contrast(first: float, second: float) -> float:
    """Return the contrast of two luminances, in [1, 21]. Source: WCAG 2.2."""
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def _tick_label(number: int, name: str) -> str:
    """Return a name as short as the axis needs it, or its number in the tables if the font lacks a letter."""
    if not set(map(ord, name)) <= _drawable():
        return f"#{number}"
    return name if len(name) <= _TICK_LABEL_LETTERS else f"{name[: _TICK_LABEL_LETTERS - 1]}…"


@functools.cache
def _drawable() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())


def _draw_calibration(result: SplitResult, figure: Figure, look: _Look) -> None:
    """Draw each bin's accuracy over its confidence, and below how many images it holds."""
    bins = calibration_bins(result)
    centers = [(one.lower + one.upper) / 2 for one in bins]
    width = 0.94 / len(bins)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(centers, [one.accuracy or 0 for one in bins], width, color=look.first, label="accuracy")
    upper.plot([0, 1], [0, 1], "--", color=look.ink, linewidth=1, label="perfectly calibrated")
    filled = [(one.confidence, one.accuracy) for one in bins if one.count]
    upper.plot(*zip(*filled, strict=True), "D", color=look.second, markersize=5, label="at mean confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1.04), ylabel="accuracy")
    upper.grid(alpha=0.3)
    # Outside: a bar may stand anywhere inside.
    figure.legend(fontsize="small", loc="outside upper center", ncols=3)
    lower.bar(centers, [one.count for one in bins], width, color=look.faint)
    lower.set(xlabel="probability of the predicted class", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    lower.set_xticks([tenth / 10 for tenth in range(0, 11, 2)])
