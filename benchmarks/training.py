"""How fast training is, compared with the Bookcamp recipe.

    python -m benchmarks.training --data DIR --weights FILE.weights.h5 --json OUT

The Bookcamp recipe is what the book Machine Learning Bookcamp teaches: ImageDataGenerator and `model.fit`. It
is written out below. Four contenders train a head on a frozen backbone, each in a new process:

recipe  the Bookcamp recipe
cold    `train` with an empty feature cache
warm    `train` again, into another model directory, with the features that `cold` stored
tune    `tune`, all combinations of its grid, with the same features

The clock runs from images on disk to trained weights; `train` and `tune` also write their results to disk in
that time. It leaves out the start of Python, the import of TensorFlow, the final evaluation and the export.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures

LIMITS: figures.Limits = {
    "speedup_cold": (">=", 11),
    "speedup_warm": (">=", 60),
    "tune_over_epoch": ("<=", 1),
    "accuracy_below_recipe": ("<=", 0.01),
}
CONTENDERS = {
    "recipe": "the Bookcamp recipe",
    "cold": "train, empty feature cache",
    "warm": "train, features stored",
    "tune": "tune, features stored",
}
LEARNING_RATE = 0.001
BATCH_SIZE = 32

Outcome = dict[str, Any]
"""What a contender measures of itself: seconds, val_accuracy of its best epoch, peak_memory_mb (10^6 bytes).
The recipe adds epoch_seconds, `tune` adds trials."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What all contenders train on. `network` is the constructor's name in keras.applications."""

    data: str
    weights: str
    scratch: str
    network: str = "Xception"
    image_size_px: int = 150
    epochs: int = 10
    grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)

    @property
    def backbone(self) -> str:
        """The network's name in `--backbone`, which is also that of its module in keras.applications."""
        return self.network.lower()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contenders one after the other and print their table; return the exit code."""
    arguments = figures.parse_arguments(__doc__, argv, required=("data", "weights"))
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick:
            workload = quick_workload(scratch)
        else:
            workload = Workload(data=str(arguments.data), weights=str(arguments.weights), scratch=scratch)
        outcomes = measure(workload)
    compared = compare(outcomes)
    figures.print_table(
        ["", "seconds", "× faster", "validation accuracy", "peak MB"],
        [
            [
                CONTENDERS[name],
                f"{outcome['seconds']:,.1f}",
                "–" if name == "tune" else f"{outcomes['recipe']['seconds'] / outcome['seconds']:.2f}",
                f"{outcome['val_accuracy']:.4f}",
                f"{outcome['peak_memory_mb']:,.0f}",
            ]
            for name, outcome in outcomes.items()
        ],
    )
    print(
        f"tune ran {outcomes['tune']['trials']} trials in {compared['tune_over_epoch']:.2f} of the time that "
        "the recipe took for one epoch; its accuracy is the best trial's\n"
    )
    return figures.finish({**compared, "contenders": outcomes}, LIMITS, arguments)


def quick_workload(scratch: str) -> Workload:
    """Write drawings, and return a workload that takes seconds."""
    data = Path(scratch, "images")
    figures.run_trainer("sample", data, "--train-per-class", 4)
    return Workload(
        data=str(data),
        weights="none",
        scratch=scratch,
        network="VGG16",
        image_size_px=32,
        epochs=2,
        grid={"learning_rates": [0.001], "hidden_unit_counts": [10], "dropouts": [0.0]},
    )


def measure(workload: Workload) -> dict[str, Outcome]:
    """Return each contender's outcome."""
    # The first contender must not pay for a disk that the others find in memory.
    for path in Path(workload.data).rglob("*.*"):
        path.read_bytes()
    outcomes = {}
    text = json.dumps(dataclasses.asdict(workload))
    for name, title in CONTENDERS.items():
        print(f"{title} ...", file=sys.stderr, flush=True)
        outcomes[name] = figures.call_in_new_process("training", "contend", name, text)
    return outcomes


def compare(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Return the ratios that the limits are about."""
    recipe, cold, warm, tune = (outcomes[name] for name in CONTENDERS)
    return {
        "speedup_cold": recipe["seconds"] / cold["seconds"],
        "speedup_warm": recipe["seconds"] / warm["seconds"],
        "tune_over_epoch": tune["seconds"] / recipe["epoch_seconds"],
        "accuracy_below_recipe": recipe["val_accuracy"] - cold["val_accuracy"],
    }


def contend(name: str, workload: str) -> Outcome:
    """Be one contender, in a process of its own."""
    contenders = {"recipe": run_recipe, "cold": run_train, "warm": run_train, "tune": run_tune}
    outcome = contenders[name](Workload(**json.loads(workload)), name)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**outcome, "peak_memory_mb": peak_kib * 1024 / 1e6}


def run_recipe(workload: Workload, name: str) -> Outcome:
    """Train as the Bookcamp recipe does.

    An epoch's time is the mean of all but the first, which also traces the graph. The clock stops with the
    last epoch and not with `fit`, which reads ahead for an epoch that never starts.
    """
    import keras

    keras.utils.set_random_seed(0)
    started = time.monotonic()
    train = _recipe_images(workload, "train", shuffle=True)
    validation = _recipe_images(workload, "validation", shuffle=False)
    model = _recipe_model(workload, train.num_classes)
    ended = [time.monotonic()]
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended.append(time.monotonic()))
    history = model.fit(
        train, epochs=workload.epochs, validation_data=validation, verbose=0, callbacks=[clock]
    )
    epochs = [after - before for before, after in itertools.pairwise(ended)]
    return {
        "seconds": ended[-1] - started,
        "val_accuracy": max(history.history["val_accuracy"]),
        "epoch_seconds": statistics.mean(epochs[1:]),
    }


def _recipe_images(workload: Workload, split: str, *, shuffle: bool) -> Any:
    import keras
    import tensorflow as tf

    application = getattr(keras.applications, workload.backbone)
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        preprocessing_function=application.preprocess_input
    )
    size = (workload.image_size_px, workload.image_size_px)
    return generator.flow_from_directory(
        Path(workload.data, split), target_size=size, batch_size=BATCH_SIZE, shuffle=shuffle
    )


def _recipe_model(workload: Workload, class_count: int) -> Any:
    import keras

    shape = (workload.image_size_px, workload.image_size_px, 3)
    weights = None if workload.weights == "none" else workload.weights
    base = getattr(keras.applications, workload.network)(
        include_top=False, weights=weights, input_shape=shape
    )
    base.trainable = False
    inputs = keras.Input(shape)
    features = keras.layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(class_count)(features))
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _settings(workload: Workload, name: str) -> Any:
    from trainer.config import TrainConfig

    return TrainConfig(
        data=Path(workload.data),
        model_dir=Path(workload.scratch, name),
        cache_dir=Path(workload.scratch, "features"),
        backbone=workload.backbone,
        weights=workload.weights,
        image_size=workload.image_size_px,
        epochs=workload.epochs,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        resize_filter="nearest",  # as ImageDataGenerator resizes
    )


def run_train(workload: Workload, name: str) -> Outcome:
    """Train with `train`; the clock stops when the best epoch's weights are on disk."""
    from trainer import run

    settings = _settings(workload, name)
    started = time.time()  # the clock of file times
    published = run.train(settings)
    ended = (published.run_directory / "best.weights.h5").stat().st_mtime
    return {"seconds": ended - started, "val_accuracy": published.metrics["validation"].accuracy}


def run_tune(workload: Workload, name: str) -> Outcome:
    """Search with `tune`; the clock stops when the ranking is on disk."""
    from trainer.config import Grid
    from trainer.training import tune

    settings, grid = _settings(workload, name), Grid(**workload.grid)  # type: ignore[arg-type]  # from JSON
    started = time.monotonic()
    tuned = tune(settings, grid)
    return {
        "seconds": time.monotonic() - started,
        "val_accuracy": tuned.trials[0].val_accuracy,
        "trials": len(tuned.trials),
    }


if __name__ == "__main__":
    sys.exit(main())
