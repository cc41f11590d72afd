"""How accurate a head becomes with each resize filter.

    python -m benchmarks.resize_filter --data DIR --weights FILE.weights.h5 --json OUT

For each filter and each of five seeds, one trial of `tune` trains a head for 10 epochs at 150 px. A trial
counts with its best epoch's validation accuracy, the same that `train` would reach. Seeds share
stored features.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What each head is trained on; `filters` and `seeds` are tried in all combinations."""

    data: Path
    weights: str
    filters: tuple[str, ...] = ("nearest", "bilinear")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    backbone: str = "xception"
    image_size_px: int = 150
    epochs: int = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    arguments = figures.parse_arguments(__doc__, argv, required=("data", "weights"))
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        if arguments.quick:
            data = work / "images"
            figures.run_trainer("sample", data, "--train-per-class", 4)
            workload = Workload(
                data=data, weights="none", seeds=(0, 1), backbone="vgg16", image_size_px=32, epochs=1
            )
        else:
            workload = Workload(data=arguments.data, weights=str(arguments.weights))
        accuracies = measure(workload, work / "models")
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    figures.print_table(
        ["filter", "mean", *(f"seed {seed}" for seed in workload.seeds)],
        [
            [name, f"{means[name]:.4f}", *(f"{value:.4f}" for value in values)]
            for name, values in accuracies.items()
        ],
    )
    return figures.finish({"val_accuracies": accuracies, "mean_val_accuracy": means}, {}, arguments)


def measure(workload: Workload, model_dir: Path) -> dict[str, list[float]]:
    """Return the validation accuracies by filter, one for each seed."""
    from trainer.config import Grid, TrainConfig
    from trainer.training import tune

    one_trial = Grid(learning_rates=(0.001,), hidden_unit_counts=(0,), dropouts=(0.0,))
    accuracies: dict[str, list[float]] = {name: [] for name in workload.filters}
    for name, values in accuracies.items():
        for seed in workload.seeds:
            resize: Any = name  # TrainConfig checks it
            settings = TrainConfig(
                data=workload.data,
                model_dir=model_dir,
                backbone=workload.backbone,
                weights=workload.weights,
                image_size=workload.image_size_px,
                epochs=workload.epochs,
                resize_filter=resize,
                seed=seed,
            )
            best = tune(settings, one_trial).trials[0].val_accuracy
            assert best is not None  # `tune` raises DivergedError if its only trial diverges
            values.append(best)
    return accuracies


if __name__ == "__main__":
    sys.exit(main())
