"""How fast training is, beside the course's recipe and beside the floor, in one run on one machine.

    python benchmarks/training.py --data DIR --weights FILE --json OUT

Each contender runs in a fresh process of this script, one after the other:

recipe  what the Machine Learning Bookcamp teaches: ImageDataGenerator and `model.fit`, written out below
floor   one forward pass of the frozen network over the same images, and nothing else
cold    our trainer with an empty cache
warm    our trainer again, into another model directory, with the features of `cold`
tune    our search, 48 trials on the features of `cold`

Times run from data on disk to trained best weights. What is not in them, for none: starting Python, importing
TensorFlow, measuring once more what will be served, the export.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the processes import takes seconds, which are not to be in their times
    import numpy as np

CONTENDERS = {
    "recipe": "the course's recipe",
    "floor": "floor: one forward pass",
    "cold": "ours, cold",
    "warm": "ours, warm cache",
    "tune": "ours, tune",
}
SMALLEST_IMAGE_PX = 71  # Xception's
LEARNING_RATE = 0.001
BATCH_SIZE = 32
FLOOR_BATCH_SIZES = (8, 16, 32, 64)
FLOOR_PROBED_IMAGES = 128


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one contender has measured of itself.

    Attributes:
      seconds: as the module's docstring says.
      images: how many have been read in that time, an image of a second epoch counted again.
      val_accuracy: of the best epoch; None if there is none.
      peak_memory_mb: of the whole process, in 10^6 bytes.
      details: what else is worth keeping.
    """

    seconds: float
    images: int
    val_accuracy: float | None
    peak_memory_mb: float
    details: Mapping[str, Any]

    @property
    def images_per_second(self) -> float:
        """Throughput; of the trainers over all epochs."""
        return self.images / self.seconds


@dataclasses.dataclass(frozen=True)
class Target:
    """A figure that must not be on the wrong side of its limit; None where it was not measured."""

    key: str
    value: float | None
    limit: float | None
    at_least: bool = False

    @property
    def missed(self) -> bool:
        """Whether it was measured and is on the wrong side."""
        if self.value is None or self.limit is None:
            return False
        return self.value < self.limit if self.at_least else self.value > self.limit

    def in_words(self) -> str:
        """Return the line of the summary."""
        if self.value is None or self.limit is None:
            return f"{self.key:<24}         –"
        verdict = "MISSED" if self.missed else "ok"
        return (
            f"{self.key:<24}{self.value:10.4g}   {'≥' if self.at_least else '≤'} {self.limit:<8.4g}{verdict}"
        )


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code: 0, 1 if a target is missed, 2 if it cannot be begun."""
    arguments = _parser().parse_args(argv)
    if arguments.contender:
        return _contend(arguments)
    if complaint := _complaint(arguments):
        _say(f"training.py: {complaint}")
        return 2
    outcomes: dict[str, Outcome] = {}
    _read_files(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        for name in _wanted(arguments.only):
            outcome = _run(name, argv, Path(scratch))
            if outcome is None:
                return 1
            outcomes[name] = outcome
    targets = targets_of(outcomes)
    print(table(outcomes), *[target.in_words() for target in targets], sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(_as_json(arguments, outcomes, targets), indent=2) + "\n")
    return int(any(target.missed for target in targets))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the trainer beside the course's recipe, with Xception (half an hour on 2 cores)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="DATA/train/CLASS/* and DATA/validation/CLASS/*"
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="Xception's .weights.h5 file, without its top"
    )
    parser.add_argument("--json", type=Path, help="file that takes every figure")
    parser.add_argument("--epochs", type=int, default=10, help="of each training (default: 10)")
    parser.add_argument(
        "--recipe-epochs",
        type=int,
        default=2,
        help="epochs of the recipe that are measured; the others are extrapolated (default: 2)",
    )
    parser.add_argument("--image-size", type=int, default=150, help="in pixels (default: 150)")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(CONTENDERS),
        metavar="NAME,NAME",
        help=f"some of {','.join(CONTENDERS)}; warm and tune bring cold with them",
    )
    # What makes this script one of its own processes.
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser


def _complaint(arguments: argparse.Namespace) -> str | None:
    """Return why the benchmark cannot begin, if it cannot: it would be a pity after half an hour."""
    for split in ("train", "validation"):
        if not (arguments.data / split).is_dir():
            return (
                "--data must hold train/CLASS/* and validation/CLASS/*. "
                f"Received: {arguments.data} without {split}."
            )
    if not arguments.weights.is_file() or not arguments.weights.name.endswith(".weights.h5"):
        return f"--weights must be a .weights.h5 file. Received: {arguments.weights}."
    if arguments.json and not (arguments.json.parent.is_dir() and os.access(arguments.json.parent, os.W_OK)):
        return f"--json must be a file in a folder that can be written. Received: {arguments.json}."
    if unknown := set(arguments.only) - set(CONTENDERS):
        return f"--only takes {', '.join(CONTENDERS)}. Received: {', '.join(sorted(unknown))}."
    if arguments.image_size < SMALLEST_IMAGE_PX:
        return f"--image-size must be at least {SMALLEST_IMAGE_PX}. Received: {arguments.image_size}."
    if not 1 <= arguments.recipe_epochs <= arguments.epochs:
        return (
            "--recipe-epochs must lie between 1 and --epochs. "
            f"Received: {arguments.recipe_epochs} of {arguments.epochs}."
        )
    return None


def _wanted(only: Sequence[str]) -> list[str]:
    wanted = {*only, *(["cold"] if {"warm", "tune"} & set(only) else [])}
    return [name for name in CONTENDERS if name in wanted]


def _read_files(data: Path) -> None:
    """Read all files once: the first contender is not to pay for a disk that the others find cached."""
    for path in data.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _run(name: str, argv: Sequence[str], scratch: Path) -> Outcome | None:
    """Run one contender; None if it has failed, for which its process has said why."""
    _say(f"{CONTENDERS[name]} …")
    command = [sys.executable, __file__, *argv, "--contender", name, "--scratch", str(scratch)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        _say(f"training.py: {name} has ended with exit code {ended.returncode}.")
        return None
    outcome = Outcome(**json.loads(ended.stdout))
    _say(f"{CONTENDERS[name]}: {outcome.seconds:.1f} s")
    return outcome


def _contend(arguments: argparse.Namespace) -> int:
    """Be one of the processes: print the outcome as JSON on stdout, and everything else on stderr."""
    from trainer.errors import TrainerError

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    contend: dict[str, Callable[[argparse.Namespace], Outcome]] = {
        "recipe": _recipe,
        "floor": _floor,
        "cold": _train,
        "warm": _train,
        "tune": _tune,
    }
    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = contend[arguments.contender](arguments)
    except TrainerError as error:
        _say(f"training.py: {error}")
        return error.exit_code
    print(json.dumps(dataclasses.asdict(outcome)))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _peak_memory_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _recipe(arguments: argparse.Namespace) -> Outcome:
    """Train as the course does, and extrapolate from the measured epochs.

    Of two measured epochs and more, those that are extrapolated take the mean of all but the first, because
    the first also traces the graph, which happens once. The time ends with the last measured epoch and not
    with `fit`, which reads on into an epoch that does not come, and returns only when it has read it.
    """
    import keras

    keras.utils.set_random_seed(0)
    started = time.monotonic()
    train = _recipe_images(arguments, "train", shuffle=True)
    validation = _recipe_images(arguments, "validation", shuffle=False)
    model = _recipe_model(arguments, train.num_classes)
    begun: list[float] = []
    ended: list[float] = []

    def end_epoch(epoch: int, logs: Any) -> None:
        ended.append(time.monotonic())
        _say(f"  epoch {epoch + 1}: {ended[-1] - begun[-1]:.1f} s")

    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(time.monotonic()), on_epoch_end=end_epoch
    )
    history = model.fit(
        train, epochs=arguments.recipe_epochs, validation_data=validation, verbose=0, callbacks=[clock]
    )
    peak_memory_mb = _peak_memory_mb()
    epochs = [after - before for before, after in zip(begun, ended, strict=True)]
    epoch_seconds = statistics.mean(epochs[1:] or epochs)
    rest = arguments.epochs - len(epochs)
    accuracies = history.history["val_accuracy"]
    if rest:
        _say(f"  the other {rest} epochs, on stored features, for the accuracy only")
        accuracies += _train_head_on(arguments, model, rest)
    return Outcome(
        seconds=ended[-1] - started + rest * epoch_seconds,
        images=train.samples * arguments.epochs,
        val_accuracy=max(accuracies),
        peak_memory_mb=peak_memory_mb,
        details={
            "measured_epochs": len(epochs),
            "epochs_seconds": epochs,
            "epoch_seconds": epoch_seconds,
            "setup_seconds": begun[0] - started,
            "val_accuracies": accuracies,
        },
    )


def _recipe_images(arguments: argparse.Namespace, split: str, *, shuffle: bool) -> Any:
    import keras
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        preprocessing_function=keras.applications.xception.preprocess_input
    )
    size_px = arguments.image_size
    return generator.flow_from_directory(
        arguments.data / split, target_size=(size_px, size_px), batch_size=BATCH_SIZE, shuffle=shuffle
    )


def _recipe_model(arguments: argparse.Namespace, class_count: int) -> Any:
    import keras

    shape = (arguments.image_size, arguments.image_size, 3)
    base = keras.applications.Xception(include_top=False, weights=str(arguments.weights), input_shape=shape)
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


def _train_head_on(arguments: argparse.Namespace, model: Any, epochs: int) -> list[float]:
    """Train the recipe's head for more epochs, with its optimizer, and return their validation accuracies.

    A frozen backbone without augmentation gives the same features in each epoch: computed once, they lead
    to what `fit` on the images would have led to, but for the order of the images.
    """
    import keras

    dense = model.layers[-1]
    pooled = keras.Model(model.input, dense.input)
    images = [_recipe_images(arguments, split, shuffle=False) for split in ("train", "validation")]
    train, validation = (
        (pooled.predict(one, verbose=0), keras.utils.to_categorical(one.classes)) for one in images
    )
    inputs = keras.Input(pooled.output_shape[1:])
    head = keras.Model(inputs, dense(inputs))
    head.compile(optimizer=model.optimizer, loss=model.loss, metrics=["accuracy"])
    history = head.fit(*train, batch_size=BATCH_SIZE, epochs=epochs, validation_data=validation, verbose=0)
    accuracies: list[float] = history.history["val_accuracy"]
    return accuracies


def _floor(arguments: argparse.Namespace) -> Outcome:
    """Run every image, already decoded, through the frozen network at the best batch size."""
    import tensorflow as tf

    from trainer.model.backbones import build_features, find_backbone

    size_px = arguments.image_size
    network = build_features(find_backbone("xception"), size_px, str(arguments.weights))
    pictures = _decoded(arguments)

    @tf.function(input_signature=[tf.TensorSpec((None, size_px, size_px, 3), tf.float32)])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def forward(batch: tf.Tensor) -> tf.Tensor:
        return network(batch, training=False)

    def measure(rows: np.ndarray, batch_size: int) -> float:
        started = time.monotonic()
        for start in range(0, len(rows), batch_size):
            forward(rows[start : start + batch_size]).numpy()
        return time.monotonic() - started

    probed = {}
    for batch_size in FLOOR_BATCH_SIZES:
        measure(pictures[:batch_size], batch_size)  # traces, and allocates
        probed[batch_size] = measure(pictures[:FLOOR_PROBED_IMAGES], batch_size)
    best = min(probed, key=probed.__getitem__)
    return Outcome(
        seconds=measure(pictures, best),
        images=len(pictures),
        val_accuracy=None,
        peak_memory_mb=_peak_memory_mb(),
        details={"batch_size": best, "probed_seconds": probed},
    )


def _decoded(arguments: argparse.Namespace) -> np.ndarray:
    """Return the images of all splits as the network takes them, float32 (N, H, W, 3)."""
    import numpy as np

    from trainer.data import images
    from trainer.data.pipeline import ImageExamples
    from trainer.model.backbones import find_backbone

    size_px, xception = arguments.image_size, find_backbone("xception")
    splits = images.scan_folders(arguments.data).splits.values()
    pictures = np.empty((sum(map(len, splits)), size_px, size_px, 3), np.float32)
    count = 0
    for split in splits:
        for batch, _ in ImageExamples(split, xception, size_px).batches(np.arange(len(split)), BATCH_SIZE):
            pictures[count : count + len(batch)] = batch
            count += len(batch)
    return pictures


def _settings(arguments: argparse.Namespace) -> Any:
    from trainer.config import TrainConfig

    return TrainConfig(
        data=arguments.data,
        model_dir=arguments.scratch / arguments.contender,
        cache_dir=arguments.scratch / "cache",
        backbone="xception",
        weights=str(arguments.weights),
        image_size=arguments.image_size,
        epochs=arguments.epochs,
        learning_rate=LEARNING_RATE,
        resize_filter="nearest",  # as the recipe's generator resizes
    )


def _train(arguments: argparse.Namespace) -> Outcome:
    """Train with our trainer, until the best epoch's weights are on disk.

    Not the sum of the phases of report.json, which leaves out what lies between them (1 % of a warm run).
    """
    from trainer import run

    config = _settings(arguments)
    started = time.time()  # the clock of file times
    published = run.train(config)
    ended = (published.run_directory / "best.weights.h5").stat().st_mtime
    report = json.loads((published.run_directory / "report.json").read_text(encoding="utf-8"))
    phases = {phase["name"]: phase for phase in report["phases"]}
    return Outcome(
        seconds=ended - started,
        images=phases["head"]["images"],
        val_accuracy=published.metrics["validation"].accuracy,
        peak_memory_mb=_peak_memory_mb(),
        details={"phases_seconds": {name: phase["seconds"] for name, phase in phases.items()}},
    )


def _tune(arguments: argparse.Namespace) -> Outcome:
    """Search with our trainer, on features that are on disk, until the ranking is."""
    from trainer.config import Grid
    from trainer.training.tuning.search import tune

    config = _settings(arguments)
    started = time.monotonic()
    tuned = tune(config, Grid())
    seconds = time.monotonic() - started
    train_images = sum(path.is_file() for path in (arguments.data / "train").glob("*/*"))
    return Outcome(
        seconds=seconds,
        images=len(tuned.trials) * arguments.epochs * train_images,
        val_accuracy=tuned.trials[0].val_accuracy,
        peak_memory_mb=_peak_memory_mb(),
        details={"trials": len(tuned.trials)},
    )


def targets_of(outcomes: Mapping[str, Outcome]) -> list[Target]:
    """Return what the figures must reach; without a value where a contender is missing."""
    seconds = {name: outcome.seconds for name, outcome in outcomes.items()}
    accuracy = {name: outcome.val_accuracy for name, outcome in outcomes.items()}
    recipe_accuracy = accuracy.get("recipe")
    epoch = outcomes["recipe"].details["epoch_seconds"] if "recipe" in outcomes else None
    return [
        Target("speedup_cold", _ratio(seconds.get("recipe"), seconds.get("cold")), 11, at_least=True),
        Target("speedup_warm", _ratio(seconds.get("recipe"), seconds.get("warm")), 60, at_least=True),
        Target("floor_ratio", _ratio(seconds.get("cold"), seconds.get("floor")), 1.15),
        Target("tune_over_epoch", _ratio(seconds.get("tune"), epoch), 1),
        Target(
            "val_accuracy",
            accuracy.get("cold"),
            None if recipe_accuracy is None else recipe_accuracy - 0.01,
            at_least=True,
        ),
    ]


def _ratio(dividend: float | None, divisor: float | None) -> float | None:
    return None if dividend is None or divisor is None else dividend / divisor


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Return the contenders as a table of fixed width, and what must be known to read it."""
    heads = ("seconds", "images/s", "val accuracy", "peak MB", "× faster")
    lines = [f"{'':<26}" + "".join(f"{head:>14}" for head in heads)]
    for name, outcome in outcomes.items():
        accuracy = "–" if outcome.val_accuracy is None else f"{outcome.val_accuracy:.4f}"
        faster = _ratio(outcomes["recipe"].seconds, outcome.seconds) if "recipe" in outcomes else None
        cells = (
            f"{outcome.seconds:,.1f}",
            f"{outcome.images_per_second:,.1f}",
            accuracy,
            f"{outcome.peak_memory_mb:,.0f}",
            "–" if faster is None or name == "tune" else f"{faster:.2f}",
        )
        lines.append(f"{CONTENDERS[name]:<26}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join([*lines, "", *_notes(outcomes), ""])


def _notes(outcomes: Mapping[str, Outcome]) -> list[str]:
    notes = ["images/s: an image of a second epoch or trial is counted again; the floor reads each once."]
    if "recipe" in outcomes:
        recipe = outcomes["recipe"].details
        measured, epochs = recipe["measured_epochs"], len(recipe["val_accuracies"])
        if measured < epochs:
            notes += [
                f"The recipe's seconds are extrapolated from {measured} measured epoch(s) to {epochs}, at "
                f"{recipe['epoch_seconds']:.1f} s each.",
                "Its accuracy is the best of all epochs: those not measured were trained on stored features.",
            ]
    if "floor" in outcomes:
        batch_size = outcomes["floor"].details["batch_size"]
        notes.append(f"The floor runs at batch size {batch_size}; its memory holds every decoded image.")
    if "tune" in outcomes:
        notes.append(f"tune: {outcomes['tune'].details['trials']} trials, and the accuracy of the best.")
    return notes


def _as_json(
    arguments: argparse.Namespace, outcomes: Mapping[str, Outcome], targets: Sequence[Target]
) -> dict[str, Any]:
    """Return every figure, and where it was measured."""
    recipe = outcomes.get("recipe")
    return {
        **{target.key: target.value for target in targets},
        "val_accuracy_recipe": recipe.val_accuracy if recipe else None,
        "targets": [{**dataclasses.asdict(target), "missed": target.missed} for target in targets],
        "contenders": {
            name: {**dataclasses.asdict(outcome), "images_per_second": outcome.images_per_second}
            for name, outcome in outcomes.items()
        },
        "settings": {
            "backbone": "xception",
            "weights": arguments.weights.name,
            "image_size": arguments.image_size,
            "epochs": arguments.epochs,
            "learning_rate": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
        },
        "machine": {"cpu": _cpu_name(), "cpus": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "pillow")},
        },
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
