"""The summary of a search: a table on the terminal, a plot, and the files that programs read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from trainer.config import TrainConfig
from trainer.runtime import storage
from trainer.training.tuning.trials import TRIALS_JSON, Trial, trials_csv, trials_json

_SHOWN = 10
_MARKERS = "osD^v"


def write_trials(directory: Path, config: TrainConfig, table: Sequence[Trial]) -> None:
    """Write trials.csv, trials.png and trials.json, the trials best first.

    Raises:
      StorageError: the directory cannot take them.
    """
    with storage.explain_errors("The trials cannot be written", directory):
        storage.write_atomically(directory / "trials.csv", trials_csv(table))
        storage.write_atomically(
            directory / "trials.png", lambda file: _plot(table).savefig(file, format="png", dpi=120)
        )
        # Last: `train --from-trial` reads it.
        storage.write_atomically(directory / TRIALS_JSON, trials_json(config, table))


def _plot(table: Sequence[Trial]) -> Figure:
    """Draw validation accuracy by learning rate: a panel for each hidden layer, a line for each dropout."""
    hidden_unit_counts = sorted({trial.hidden_units for trial in table})
    figure = Figure(figsize=(1.6 + 3.4 * len(hidden_unit_counts), 4.4), layout="constrained")
    panels = figure.subplots(1, len(hidden_unit_counts), sharex=True, sharey=True, squeeze=False)[0]
    for axes, hidden_units in zip(panels, hidden_unit_counts, strict=True):
        _draw_panel(axes, [trial for trial in table if trial.hidden_units == hidden_units], table[0])
        axes.set_title(f"{hidden_units} hidden units" if hidden_units else "no hidden layer")
    panels[0].set_ylabel("validation accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    figure.supxlabel("learning rate", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _draw_panel(axes: Axes, panel: Sequence[Trial], winner: Trial) -> None:
    dropouts = sorted({trial.dropout for trial in panel})
    for dropout, marker in zip(dropouts, _MARKERS * len(dropouts), strict=False):
        line = sorted(
            (trial for trial in panel if trial.dropout == dropout), key=lambda trial: trial.learning_rate
        )
        # A line has a gap where a trial diverged.
        accuracies = [float("nan") if one.val_accuracy is None else one.val_accuracy for one in line]
        rates = [trial.learning_rate for trial in line]
        axes.plot(rates, accuracies, f"{marker}-", markersize=5, label=f"dropout {dropout:g}")
    if winner in panel and winner.val_accuracy is not None:
        axes.plot(winner.learning_rate, winner.val_accuracy, "*", markersize=18, mfc="none", mec="black")
        axes.annotate(
            f"best: {winner.val_accuracy:.2%}",
            (winner.learning_rate, winner.val_accuracy),
            xytext=(0, 12),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
    axes.set_xscale("log")
    rates = sorted({trial.learning_rate for trial in panel})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)


def print_summary(directory: Path, config: TrainConfig, ranked: Sequence[Trial]) -> None:
    """Print the best trials, and the command that trains with the best one."""
    shown = ranked[:_SHOWN]
    title = f"The best {len(shown)} of {len(ranked)} trials, on {shown[0].count} validation images"
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for name in ("trial", "learning rate", "hidden units", "dropout", "val accuracy", "correct", "val loss"):
        table.add_column(name, justify="right")
    for trial in shown:
        table.add_row(*_cells(trial))
    console = Console(highlight=False)
    console.print(table)
    command = ["python", "-m", "trainer", "train", "--model-dir", str(config.model_dir)]
    command += ["--name", config.name, "--from-trial", "best"]
    # Not through the console, which would break the lines at the terminal's width.
    print(f"All trials: {directory}/trials.json, trials.csv, trials.png")
    print(f"Train with the best trial: {shlex.join(command)}")


def _cells(trial: Trial) -> list[str]:
    cells = [str(trial.number), f"{trial.learning_rate:g}", str(trial.hidden_units), f"{trial.dropout:g}"]
    if trial.val_accuracy is None:
        return [*cells, "diverged"]
    return [*cells, f"{trial.val_accuracy:.4f}", str(trial.correct), f"{trial.val_loss:.4f}"]
