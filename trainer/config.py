"""One training run's settings: one frozen dataclass, from which the flags and the TOML keys are made.

Precedence: the defaults below < a TOML file < the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ClassMode = Literal["categorical", "binary", "sparse"]


def _setting(help_text: str, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; each field is a flag and a TOML key of the same name."""

    data: Path = _setting(
        "image folders: DATA/train/CLASS/* and DATA/validation/CLASS/*, optionally DATA/test/CLASS/*; "
        "or one tree DATA/CLASS/* with --validation-split"
    )
    model_dir: Path = _setting("versions are published as MODEL_DIR/NAME/1, 2, ...")
    name: str = _setting("name under which the model is served", "classifier")
    backbone: str = _setting("network from keras.applications, without its top", "xception")
    weights: str = _setting(
        "the backbone's weights: imagenet (downloaded by Keras), none (random: for trying things out), "
        "or a .weights.h5 file of this backbone without its top",
        "imagenet",
    )
    image_size: int | None = _setting(
        "height and width in pixels to which images are resized; left out: the backbone's own size", None
    )
    validation_split: float | None = _setting(
        "share of each class held out for validation, between 0 and 1; for a single tree only", None
    )
    class_mode: ClassMode = _setting(
        "categorical or sparse: one logit a class, one-hot or integer targets; "
        "binary: two classes, one logit",
        "categorical",
    )
    inner_size: int = _setting("units of an inner Dense layer before the logits; 0: none", 0)
    dropout: float = _setting("share of features dropped before the logits, from 0 to below 1", 0.0)
    learning_rate: float = _setting("Adam's learning rate", 0.001)
    epochs: int = _setting("passes over the training images", 10)
    batch_size: int = _setting("images per replica and step; the global batch is this × replicas", 32)
    cpu_replicas: int | None = _setting(
        "train on this many logical CPU devices; left out: on all GPUs that are visible, or one CPU", None
    )
    prefix_cache: bool = _setting(
        "run the frozen backbone once per image and train the head on its stored output; "
        "--no-prefix-cache runs it again in every epoch",
        True,
    )
    seed: int = _setting("seed of initial weights, shuffling, dropout and the validation split", 0)

    def __post_init__(self) -> None:
        at_least_1 = ("epochs", "batch_size", "image_size", "cpu_replicas")
        for key in at_least_1:
            _check(self, key, lambda value: value is None or value >= 1, "a whole number of at least 1")
        _check(self, "inner_size", lambda value: value >= 0, "0 or a positive whole number")
        _check(self, "dropout", lambda value: 0 <= value < 1, "a number from 0 to below 1")
        _check(self, "learning_rate", lambda value: 0 < value < float("inf"), "a positive number")
        _check(self, "seed", lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")
        _check(
            self,
            "validation_split",
            lambda value: value is None or 0 < value < 1,
            "a number between 0 and 1, such as 0.2",
        )
        _check(self, "class_mode", typing.get_args(ClassMode).__contains__, "categorical, binary or sparse")
        check_model_name(self.name)

    def to_json(self) -> str:
        """Return the resolved settings as indented JSON, paths as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


def check_model_name(name: str) -> None:
    """Raise ConfigError unless the name can be a directory, a servable and a metric label."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(
            "name must start with a letter or digit and hold only letters, digits, '_', '.' and '-'. "
            f"Received: name={name!r}. Try 'clothing'."
        )


def _check(config: TrainConfig, key: str, holds: Any, rule: str) -> None:
    value = getattr(config, key)
    if not holds(value):
        raise ConfigError(f"{flag_of(key)} must be {rule}. Received: {value!r}.")


def flag_of(key: str) -> str:
    """Return the command-line flag of a setting: image_size → --image-size."""
    return "--" + key.replace("_", "-")


def value_type(key: str) -> type:
    """Return the type that a setting's text is converted to: int for `int | None`, str for Literal."""
    hint = typing.get_type_hints(TrainConfig)[key]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return str if typing.get_origin(hint) is Literal else hint


def resolve(flags: Mapping[str, Any], toml_file: Path | None = None) -> TrainConfig:
    """Merge defaults, the TOML file and the flags that were given into one checked configuration.

    Raises:
      ConfigError: an unknown key, a value of a wrong type or out of range, a missing setting.
    """
    values = {**(_read_toml(toml_file) if toml_file else {}), **flags}
    missing = [
        flag_of(field.name)
        for field in dataclasses.fields(TrainConfig)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, as a flag or in the TOML file.")
    return TrainConfig(**values)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration file cannot be read: {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file is not valid TOML: {path}: {error}.") from error
    return {key: _typed(path, key, value) for key, value in table.items()}


def _typed(path: Path, key: str, value: Any) -> Any:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1)
        raise ConfigError(
            f"{path}: unknown key {key!r}. "
            + (f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(names)}.")
        )
    wanted = value_type(key)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{path}: {key} must be of type {wanted.__name__}. Received: {value!r}.")
    return value
