"""`train`, `tune`, `doctor`, `evaluate`, `sample`, `export-pretrained`: arguments → one function each."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import config
from trainer.commands.arguments import Commands, add_command
from trainer.config import Grid, TrainConfig
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


def _add_train(commands: Commands) -> None:
    command = add_command(
        commands, "train", "train on class folders and publish the next version", _run_train
    )
    _add_settings(command)
    command.add_argument(
        "--from-trial",
        metavar="BEST",
        help="best, or a number: the settings of that trial of `tune` under the same --model-dir and --name; "
        "the TOML file and flags win over them",
    )


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of the settings below; flags win over it"
    )
    for field in dataclasses.fields(TrainConfig):
        _add_flag(command, field)


def settings_of(arguments: argparse.Namespace) -> TrainConfig:
    """Return the settings that flags, the TOML file and a trial make together.

    Raises:
      ConfigError: one of them, or their combination, cannot be used.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    flags = {key: value for key, value in vars(arguments).items() if key in names}
    chosen = getattr(arguments, "from_trial", None)
    below = None if chosen is None else functools.partial(_of_trial, chosen)
    return config.resolve(flags, arguments.config, below)


def _of_trial(chosen: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if "model_dir" not in given:
        raise ConfigError(
            "--from-trial needs --model-dir, as a flag or in the TOML file: the trials lie there."
        )
    _quiet_tensorflow()
    from trainer.training import trial_settings

    return trial_settings(given["model_dir"], given.get("name", TrainConfig.name), chosen)


def _add_flag(command: argparse.ArgumentParser, field: dataclasses.Field[object]) -> None:
    """Add the flag of one setting. What is not given stays unset, so that the TOML file can say it."""
    help_text = field.metadata["help"].replace("%", "%%")
    if field.default is not dataclasses.MISSING and field.default is not None:
        help_text += f" (default: {field.default})"
    flag = config.flag_of(field.name)
    if config.value_type(field.name) is bool:
        command.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text
        )
        return
    command.add_argument(
        flag,
        type=config.value_type(field.name),
        choices=config.choices_of(field.name),
        default=argparse.SUPPRESS,
        help=help_text,
    )


def _run_train(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments)
    with stopping.on_sigterm() as stop:
        # TensorFlow takes seconds to import: not for --help or a mistyped flag.
        _quiet_tensorflow()
        from trainer import run

        published = run.train(settings, stop)
    measured = ", ".join(
        f"{split} accuracy {metrics.accuracy:.4f} ({metrics.correct} of {metrics.count})"
        for split, metrics in published.metrics.items()
    )
    print(f"Published {published.path}: {measured}")


def _quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up notes out of a run's log, before TensorFlow is imported.

    The notes that its libraries write before logging is set up still appear: hiding them would mean capturing
    stderr, and with it the reason when the import itself crashes.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _add_tune(commands: Commands) -> None:
    command = add_command(
        commands,
        "tune",
        "try learning rates, hidden layers and dropouts on the stored features",
        _run_tune,
    )
    grid = Grid()
    for flag, value_type, default, what in (
        ("--learning-rates", float, grid.learning_rates, "learning rates of Adam"),
        ("--hidden-unit-counts", int, grid.hidden_unit_counts, "units of the hidden layer; 0: none"),
        ("--dropouts", float, grid.dropouts, "shares of features dropped"),
    ):
        command.add_argument(
            flag,
            type=value_type,
            nargs="+",
            default=default,
            help=f"{what} to try (default: {' '.join(map(str, default))})",
        )
    _add_settings(command)


def _run_tune(arguments: argparse.Namespace) -> None:
    grid = Grid(
        learning_rates=arguments.learning_rates,
        hidden_unit_counts=arguments.hidden_unit_counts,
        dropouts=arguments.dropouts,
    )
    settings = settings_of(arguments)
    with stopping.on_sigterm() as stop:
        _quiet_tensorflow()
        from trainer.training import print_summary, tune

        found = tune(settings, grid, stop)
        print_summary(found.directory, found.config, found.trials)


def _add_doctor(commands: Commands) -> None:
    command = add_command(
        commands,
        "doctor",
        "check what a training run needs, with the flags of train: devices, volumes, images, weights, space",
        _run_doctor,
    )
    _add_settings(command)


def _run_doctor(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments)
    _quiet_tensorflow()
    from trainer.data import quality_warnings
    from trainer.training import first_error, run_checks

    examination = run_checks(settings)
    for finding in examination.findings:
        print(finding)
    for warning in quality_warnings(examination.scan.splits) if examination.scan else ():
        print(f"note  images: {warning}")
    if error := first_error(examination.findings):
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
        "--data", type=Path, required=True, metavar="DIR", help="one split: DIR/CLASS/*, as train's DATA/test"
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
        commands, "sample", "write a small labelled image set of drawings, for trying things out", _run_sample
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
        "publish an ImageNet network with its 1,000 classes, with no training",
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
