"""`train`, `tune`, `doctor`, `evaluate`, `sample`, `export-pretrained`: their flags, and what each calls.

TensorFlow takes seconds to import, so it is imported once a command has parsed its flags.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.commands import settings
from trainer.commands.arguments import Commands, add_command
from trainer.config import Grid, TrainConfig, flag_of
from trainer.errors import ConfigError
from trainer.runtime import stopping


def add(commands: Commands) -> None:
    """Add the six commands."""
    _add_train(commands)
    _add_tune(commands)
    _add_doctor(commands)
    _add_evaluate(commands)
    _add_sample(commands)
    _add_export_pretrained(commands)


def _quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up notes out of a run's log, before TensorFlow is imported.

    The few notes that its libraries write before logging is set up still appear: hiding them would mean
    capturing stderr, and losing the reason when the import itself crashes.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _add_train(commands: Commands) -> None:
    command = add_command(
        commands, "train", "train on class folders and publish the next version", _run_train
    )
    settings.add_settings(command)
    command.add_argument(
        "--from-trial",
        metavar="TRIAL",
        help="best, or a number: use the settings of that trial of `tune` under the same --model-dir and "
        "--name; the TOML file and flags win over them",
    )


def _run_train(arguments: argparse.Namespace) -> None:
    trial = arguments.from_trial
    config = settings.from_arguments(arguments, functools.partial(_trial_settings, trial) if trial else None)
    with stopping.on_sigterm() as stop:
        _quiet_tensorflow()
        from trainer import run

        published = run.train(config, stop)
    measured = ", ".join(
        f"{split} accuracy {metrics.accuracy:.4f} ({metrics.correct} of {metrics.count})"
        for split, metrics in published.metrics.items()
    )
    print(f"Published {published.path}: {measured}")


def _trial_settings(trial: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if "model_dir" not in given:
        raise ConfigError(
            "--from-trial needs --model-dir, as a flag or in the TOML file: the trials are stored there."
        )
    _quiet_tensorflow()
    from trainer.training import trial_settings

    return trial_settings(given["model_dir"], given.get("name", TrainConfig.name), trial)


def _add_tune(commands: Commands) -> None:
    command = add_command(
        commands,
        "tune",
        "search learning rates, hidden layers and dropouts for the head, on the stored features",
        _run_tune,
    )
    grid = Grid()
    for flag, value_type, default, what in (
        ("--learning-rates", float, grid.learning_rates, "Adam's learning rates"),
        ("--hidden-unit-counts", int, grid.hidden_unit_counts, "sizes of the hidden layer; 0: none"),
        ("--dropouts", float, grid.dropouts, "shares of features dropped"),
    ):
        command.add_argument(
            flag,
            type=value_type,
            nargs="+",
            default=default,
            help=f"{what} to try (default: {' '.join(map(str, default))})",
        )
    settings.add_settings(command)


def _run_tune(arguments: argparse.Namespace) -> None:
    for setting, searched in (
        ("learning_rate", "--learning-rates"),
        ("hidden_units", "--hidden-unit-counts"),
        ("dropout", "--dropouts"),
    ):
        if setting in arguments:
            raise ConfigError(
                f"tune searches {searched}. Received: {flag_of(setting)}. Use {searched} instead."
            )
    grid = Grid(
        learning_rates=arguments.learning_rates,
        hidden_unit_counts=arguments.hidden_unit_counts,
        dropouts=arguments.dropouts,
    )
    config = settings.from_arguments(arguments)
    with stopping.on_sigterm() as stop:
        _quiet_tensorflow()
        from trainer.training import print_summary, tune

        tuned = tune(config, grid, stop)
        print_summary(tuned.directory, tuned.config, tuned.trials)


def _add_doctor(commands: Commands) -> None:
    command = add_command(
        commands,
        "doctor",
        "check what a training run needs, with the flags of train: devices, volumes, images, weights, space",
        _run_doctor,
    )
    settings.add_settings(command)


def _run_doctor(arguments: argparse.Namespace) -> None:
    config = settings.from_arguments(arguments)
    _quiet_tensorflow()
    from trainer.data import quality_warnings
    from trainer.training import first_error, run_checks

    checks = run_checks(config)
    for finding in checks.findings:
        print(finding)
    for warning in quality_warnings(checks.scan.splits) if checks.scan else ():
        print(f"note  images: {warning}")
    if error := first_error(checks.findings):
        raise error


def _add_evaluate(commands: Commands) -> None:
    command = add_command(
        commands,
        "evaluate",
        "measure a published version on labelled images, through the SavedModel that is served",
        _run_evaluate,
    )
    command.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="MODEL_DIR/NAME/VERSION, or MODEL_DIR/NAME for its newest version",
    )
    command.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="one split: DIR/CLASS/*, such as DATA/test"
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where report.html and report.json go (default: MODEL_DIR/NAME/.evaluations/VERSION-TIME)",
    )


def _run_evaluate(arguments: argparse.Namespace) -> None:
    _quiet_tensorflow()
    from trainer.report import evaluate_version

    metrics, report = evaluate_version(arguments.model, arguments.data, arguments.output)
    print(
        f"accuracy {metrics.accuracy:.4f} ({metrics.correct} of {metrics.count}), loss {metrics.loss:.4f}; "
        f"report: {report}"
    )


def _add_sample(commands: Commands) -> None:
    command = add_command(
        commands, "sample", "write a small labelled set of drawings, to try the tool on", _run_sample
    )
    command.add_argument("directory", type=Path, metavar="DIR", help="a new or empty directory")
    command.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same images (default: 0)"
    )
    command.add_argument(
        "--train-per-class", type=int, default=40, help="training images of each class (default: 40)"
    )


def _run_sample(arguments: argparse.Namespace) -> None:
    from trainer.commands import sample

    counts = sample.write_sample(
        arguments.directory, seed=arguments.seed, train_per_class=arguments.train_per_class
    )
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"Wrote {arguments.directory}: {listed} images of {len(sample.CLASSES)} classes")


def _add_export_pretrained(commands: Commands) -> None:
    command = add_command(
        commands,
        "export-pretrained",
        "publish an ImageNet network with its 1,000 classes, without training",
        _run_export_pretrained,
    )
    command.add_argument(
        "--backbone", default="xception", help="network from keras.applications (default: xception)"
    )
    command.add_argument(
        "--weights",
        default="imagenet",
        help="imagenet (downloaded by Keras), none (random), or a .weights.h5 file of the network "
        "with its top (default: imagenet)",
    )
    command.add_argument(
        "--model-dir", type=Path, required=True, help="versions are published as MODEL_DIR/NAME/1, 2, ..."
    )
    command.add_argument("--name", help="name under which the model is served (default: the backbone's)")


def _run_export_pretrained(arguments: argparse.Namespace) -> None:
    _quiet_tensorflow()
    from trainer.commands import sample
    from trainer.export import export_pretrained

    with tempfile.TemporaryDirectory() as directory:
        drawings = Path(directory, "drawings")
        sample.write_sample(drawings, train_per_class=1)
        path = export_pretrained(
            arguments.backbone,
            arguments.weights,
            arguments.model_dir,
            arguments.name or arguments.backbone.lower(),
            drawings / "test",
        )
    print(f"Published {path}: {arguments.backbone}, 1000 ImageNet classes")
