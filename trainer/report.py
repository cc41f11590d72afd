"""What a person looks at after a run: the learning curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.fitting import Epoch


def write_learning_curves(history: Sequence[Epoch], path: Path) -> None:
    """Draw loss and accuracy of each epoch, training beside validation, the best epoch marked.

    Args:
      history: at least one epoch, in order.
      path: where the PNG goes.
    """
    epochs = [epoch.epoch for epoch in history]
    best = history[0]
    for epoch in history[1:]:
        if epoch.is_better_than(best):
            best = epoch
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [getattr(epoch, key) for epoch in history], "o-", label="training")
        axes.plot(epochs, [getattr(epoch, f"val_{key}") for epoch in history], "s-", label="validation")
        value = getattr(best, f"val_{key}")
        axes.axvline(best.epoch, color="grey", linestyle=":", label=f"best: epoch {best.epoch}, {value:.4f}")
        axes.set(title=key, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
