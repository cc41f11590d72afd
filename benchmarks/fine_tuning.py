"""What fine-tuning adds to a head on frozen features, and what it costs.

    python -m benchmarks.fine_tuning --data DIR --weights FILE.weights.h5 --json OUT

One run of `train` at 299 px: 12 epochs of the head on two augmented copies of each image, then 6 epochs of
everything from Xception's block13 on. It takes about an hour on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures

SETTINGS: Mapping[str, Any] = {
    "backbone": "xception",
    "image_size": 299,
    "learning_rate": 0.001,
    "dropout": 0.2,
    "epochs": 12,
    "augment_views": 2,
    "fine_tune_from": "block13",
    "fine_tune_learning_rate": 3e-5,
    "fine_tune_epochs": 6,
}
"""Chosen by validation accuracy; no test images were used."""

QUICK: Mapping[str, Any] = {
    **SETTINGS,
    "backbone": "vgg16",
    "image_size": 32,
    "epochs": 2,
    "fine_tune_from": "block5",
    "fine_tune_epochs": 2,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    arguments = figures.parse_arguments(__doc__, argv, required=("data", "weights"))
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        if arguments.quick:
            figures.run_trainer("sample", work / "images", "--train-per-class", 4)
            measured = measure(work / "images", "none", QUICK, work / "models")
        else:
            measured = measure(arguments.data, str(arguments.weights), SETTINGS, work / "models")
    figures.print_table(
        ["phase", "epoch", "validation accuracy", "seconds"],
        [
            [one["phase"], str(one["epoch"]), f"{one['val_accuracy']:.4f}", f"{one['seconds']:.1f}"]
            for one in measured["epochs"]
        ],
    )
    print(
        f"best epoch of the head {measured['head_val_accuracy']:.4f}, published "
        f"{measured['published_val_accuracy']:.4f} ({measured['correct']} of {measured['count']}), "
        f"{measured['seconds']:,.0f} s in all\n"
    )
    return figures.finish(measured, {}, arguments)


def measure(data: Path, weights: str, settings: Mapping[str, Any], model_dir: Path) -> dict[str, Any]:
    """Train, and return every epoch's figures and the published version's."""
    from trainer import run
    from trainer.config import TrainConfig

    started = time.monotonic()
    published = run.train(TrainConfig(data=data, weights=weights, model_dir=model_dir, **settings))
    validation = published.metrics["validation"]
    epochs = json.loads((published.run_directory / "history.json").read_text(encoding="utf-8"))
    return {
        "epochs": epochs,
        "head_val_accuracy": max(one["val_accuracy"] for one in epochs if one["phase"] == "head"),
        "published_val_accuracy": validation.accuracy,
        "correct": validation.correct,
        "count": validation.count,
        "seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    sys.exit(main())
