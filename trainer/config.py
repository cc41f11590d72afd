"""One training run's settings: one frozen dataclass, from which the flags and the TOML keys are made.

Precedence: the defaults below < a trial of `tune` (--from-trial) < a TOML file < the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ClassMode = Literal["categorical", "binary", "sparse"]
ClassWeight = Literal["none", "balanced"]
OnInvalidImage = Literal["fail", "skip"]
CacheDtype = Literal["float16", "float32"]
DistributionName = Literal["auto", "one", "mirrored", "multi-worker"]
ResizeFilter = Literal["bilinear", "nearest"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


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
    resize_filter: ResizeFilter = _setting(
        "how images are made smaller: bilinear averages over what a pixel covers, nearest takes one pixel of "
        "it (rougher and quicker; small images of photographs were classified better)",
        "bilinear",
    )
    validation_split: float | None = _setting(
        "share of each class held out for validation, between 0 and 1; for a single tree only", None
    )
    class_mode: ClassMode = _setting(
        "categorical or sparse: one logit a class, one-hot or integer targets; "
        "binary: two classes, one logit",
        "categorical",
    )
    class_weight: ClassWeight = _setting(
        "balanced: an image counts for more in the loss, the fewer its class has; none: all alike", "none"
    )
    on_invalid_image: OnInvalidImage = _setting(
        "what happens when files are no usable images: fail, or skip them; either way the run's directory "
        "lists each and why in invalid_images.json",
        "fail",
    )
    hidden_units: int = _setting("units of an inner Dense layer before the logits; 0: none", 0)
    dropout: float = _setting("share of features dropped before the logits, from 0 to below 1", 0.0)
    learning_rate: float = _setting("Adam's learning rate while the head is trained", 0.001)
    epochs: int = _setting("passes over the training images while the head is trained", 10)
    fine_tune_from: str | None = _setting(
        "after the head, also train the backbone from this layer on (a layer's name, or the name of a block "
        "such as block13)",
        None,
    )
    fine_tune_learning_rate: float = _setting("Adam's learning rate while the backbone is fine-tuned", 1e-5)
    fine_tune_epochs: int = _setting("passes over the training images while the backbone is fine-tuned", 10)
    augment_views: int = _setting(
        "copies of each training image, flipped, turned, zoomed and with other contrast; an epoch shows the "
        "image or one of its copies",
        0,
    )
    batch_size: int = _setting("images per replica and step; the global batch is this × replicas", 32)
    scale_learning_rate: bool = _setting("multiply the learning rates by the number of replicas", False)
    distribution: DistributionName = _setting(
        "one: one device; mirrored: all GPUs of this machine; multi-worker: those of several, named by "
        "TF_CONFIG or by an Indexed Job's environment; auto: multi-worker if that environment is there, "
        "else mirrored",
        "auto",
    )
    cpu_replicas: int | None = _setting(
        "train on this many logical CPU devices instead of GPUs; left out: one, if no GPU is visible", None
    )
    gpus: int | None = _setting(
        "GPUs that must be visible: with fewer the run is refused instead of training on the CPU", None
    )
    precision: Precision = _setting(
        "float32, or the backbone in 16 bits and the variables in 32 (bfloat16 for A100, TPU and newer CPUs)",
        "float32",
    )
    xla: bool = _setting("compile the network with XLA: faster on GPUs, slower on CPUs", False)
    deterministic: bool = _setting(
        "use only TensorFlow operations that give the same bits in every run, which may be slower", False
    )
    feature_cache: bool = _setting(
        "run the frozen layers once per image and train on their stored output; "
        "--no-feature-cache runs them again in every epoch",
        True,
    )
    cache_dir: Path | None = _setting(
        "where the frozen layers' output is kept for later runs; left out: MODEL_DIR/.feature_cache",
        None,
    )
    cache_dtype: CacheDtype | None = _setting(
        "how training images' activations are stored; left out: float32 for pooled features, float16 for the "
        "larger ones of --fine-tune-from; what is evaluated is always float32",
        None,
    )
    run_id: str | None = _setting(
        "name of this run: a second start with it goes on where the first ended, and publishes no second "
        "version; left out: an unfinished run with the same settings and images is gone on with",
        None,
    )
    checkpoint_seconds: float = _setting(
        "how often the state of a running training is saved, in seconds: what a killed process costs", 30.0
    )
    min_accuracy: float | None = _setting(
        "publish only if the validation accuracy is at least this, from 0 to 1", None
    )
    must_beat_serving: bool = _setting(
        "publish only if the model is better on the validation images than the newest published version",
        False,
    )
    keep_versions: int | None = _setting(
        "after publishing, remove all but this many newest versions; left out: none is removed", None
    )
    model_config: Path | None = _setting(
        "TensorFlow Serving's model config file: a version that one of its labels or its version policy "
        "names is never removed",
        None,
    )
    warmup_batch_size: int = _setting(
        "the largest batch in the version's warm-up file, for max_batch_size of the server's batching "
        "parameters: a version that asks for more than that is not loaded",
        32,
    )
    seed: int = _setting(
        "seed of initial weights, shuffling, dropout, augmentation and the validation split", 0
    )

    def __post_init__(self) -> None:
        for key in (
            *("epochs", "fine_tune_epochs", "batch_size", "image_size"),
            *("cpu_replicas", "gpus", "keep_versions", "warmup_batch_size"),
        ):
            _check(self, key, lambda value: value is None or value >= 1, "a whole number of at least 1")
        for key in ("hidden_units", "augment_views"):
            _check(self, key, lambda value: value >= 0, "0 or a positive whole number")
        for key in ("learning_rate", "fine_tune_learning_rate"):
            _check(self, key, lambda value: 0 < value < float("inf"), "a positive number")
        _check(self, "checkpoint_seconds", lambda value: value >= 0, "0 or a positive number of seconds")
        _check(self, "dropout", lambda value: 0 <= value < 1, "a number from 0 to below 1")
        _check(self, "seed", lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")
        _check(
            self,
            "validation_split",
            lambda value: value is None or 0 < value < 1,
            "a number between 0 and 1, such as 0.2",
        )
        _check(self, "min_accuracy", lambda value: value is None or 0 <= value <= 1, "a number from 0 to 1")
        for key, choices in _choices().items():
            _check(self, key, (*choices, None).__contains__, f"one of {', '.join(choices)}")
        check_model_name(self.name)
        if self.run_id is not None:
            check_model_name(self.run_id, "run-id")

    def to_json(self) -> str:
        """Return the resolved settings as indented JSON, paths as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The values that are tried, in all combinations.

    Attributes:
      learning_rates: Adam's, positive.
      hidden_unit_counts: units of the hidden layer; 0: none.
      dropouts: shares of features dropped, from 0 to below 1.
    """

    learning_rates: Sequence[float] = (0.0001, 0.001, 0.01, 0.1)
    hidden_unit_counts: Sequence[int] = (10, 100, 1000)
    dropouts: Sequence[float] = (0.0, 0.2, 0.5, 0.8)

    def __post_init__(self) -> None:
        _check_values(
            "--learning-rates", self.learning_rates, lambda one: 0 < one < math.inf, "positive numbers"
        )
        _check_values(
            "--hidden-unit-counts",
            self.hidden_unit_counts,
            lambda one: one >= 0,
            "0 or positive whole numbers",
        )
        _check_values("--dropouts", self.dropouts, lambda one: 0 <= one < 1, "numbers from 0 to below 1")

    def __len__(self) -> int:
        return len(self.learning_rates) * len(self.hidden_unit_counts) * len(self.dropouts)

    def combinations(self) -> list[dict[str, Any]]:
        """Return each combination once, as settings of a `TrainConfig`."""
        return [
            {"learning_rate": learning_rate, "hidden_units": hidden_units, "dropout": dropout}
            for hidden_units, dropout, learning_rate in itertools.product(
                self.hidden_unit_counts, self.dropouts, self.learning_rates
            )
        ]


def _check_values(flag: str, values: Sequence[float], holds: Callable[[float], bool], rule: str) -> None:
    if not values or len(set(values)) != len(values) or not all(map(holds, values)):
        received = " ".join(map(str, values)) or "none"
        raise ConfigError(f"{flag} must be {rule}, at least one, each once. Received: {received}.")


def check_model_name(name: str, what: str = "name") -> None:
    """Raise ConfigError unless the name can be a directory, a servable and a metric label."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(
            f"{what} must start with a letter or digit and hold only letters, digits, '_', '.' and '-'. "
            f"Received: {what}={name!r}. Try 'clothing'."
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
    hint = _hint(key)
    return str if typing.get_origin(hint) is Literal else hint


def choices_of(key: str) -> tuple[str, ...] | None:
    """Return the values that a setting may have, if they are a few names."""
    hint = _hint(key)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else None


def _hint(key: str) -> Any:
    hint = typing.get_type_hints(TrainConfig)[key]
    # Optional[Literal[...]] is a typing.Union, `int | None` a types.UnionType.
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _choices() -> dict[str, tuple[str, ...]]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return {name: choices for name in names if (choices := choices_of(name))}


def resolve(
    flags: Mapping[str, Any],
    toml_file: Path | None = None,
    below: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> TrainConfig:
    """Merge defaults, `below`, the TOML file and the flags that were given into one checked configuration.

    Args:
      below: from what was given to further settings, over which file and flags win (--from-trial).
    Raises:
      ConfigError: an unknown key, a value of a wrong type or out of range, a missing setting.
    """
    given = {**(_read_toml(toml_file) if toml_file else {}), **flags}
    values = {**(below(given) if below else {}), **given}
    missing = [
        flag_of(field.name)
        for field in dataclasses.fields(TrainConfig)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, as a flag or in the TOML file.")
    return TrainConfig(**values)


def from_text(pairs: Sequence[str]) -> dict[str, Any]:
    """Read settings that are given as KEY=VALUE.

    Raises:
      ConfigError: no "=", an unknown key, a value of a wrong type or out of range.
    """
    given = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"A setting must be KEY=VALUE, such as epochs=20. Received: {pair!r}.")
        key = name.replace("-", "_")
        _check_known("--set", key)
        given[key] = _converted(key, text)
    TrainConfig(**{"data": Path(), "model_dir": Path(), **given})  # checks the values
    return given


def _converted(key: str, text: str) -> Any:
    wanted = value_type(key)
    if wanted is bool and text not in ("true", "false"):
        raise ConfigError(f"{key} must be true or false. Received: {text!r}.")
    try:
        return text == "true" if wanted is bool else wanted(text)
    except ValueError as error:
        raise ConfigError(f"{key} must be of type {wanted.__name__}. Received: {text!r}.") from error


def _check_known(where: object, key: str) -> None:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1)
        raise ConfigError(
            f"{where}: unknown key {key!r}. "
            + (f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(names)}.")
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration file cannot be read: {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file is not valid TOML: {path}: {error}.") from error
    return {key: _typed(path, key, value) for key, value in table.items()}


def _typed(path: Path, key: str, value: Any) -> Any:
    _check_known(path, key)
    wanted = value_type(key)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{path}: {key} must be of type {wanted.__name__}. Received: {value!r}.")
    return value
