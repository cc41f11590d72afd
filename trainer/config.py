"""The settings of a training run and of a search: each declares its help, its rule and its part in identity.

Flags, TOML keys and `--set KEY=VALUE` are made from these declarations (trainer/commands/settings.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ConfigError

ClassMode = Literal["categorical", "binary", "sparse"]
ClassWeight = Literal["none", "balanced"]
OnInvalidImage = Literal["fail", "skip"]
CacheDtype = Literal["float16", "float32"]
DistributionName = Literal["auto", "one", "mirrored", "multi-worker"]
ResizeFilter = Literal["bilinear", "nearest"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a setting's value must be.

    Attributes:
      text: the rule, to follow "must be".
      holds: whether a value follows it.
    """

    text: str
    holds: Callable[[Any], bool]


AT_LEAST_1 = Rule("a whole number of at least 1", lambda value: value >= 1)
AT_LEAST_0 = Rule("0 or a positive whole number", lambda value: value >= 0)
POSITIVE = Rule("a positive number", lambda value: 0 < value < math.inf)
SECONDS = Rule("0 or a positive number of seconds", lambda value: value >= 0)
BELOW_1 = Rule("a number from 0 to below 1", lambda value: 0 <= value < 1)
BETWEEN_0_AND_1 = Rule("a number between 0 and 1, such as 0.2", lambda value: 0 < value < 1)
SHARE = Rule("a number from 0 to 1", lambda value: 0 <= value <= 1)
SEED = Rule("a whole number from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)
NAME = Rule(
    "a name of letters, digits, '_', '.' and '-' that starts with a letter or digit, such as clothing",
    lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value) is not None,
)


def _setting(
    help_text: str, default: Any = dataclasses.MISSING, rule: Rule | None = None, *, identity: bool = True
) -> Any:
    """Declare a setting.

    Args:
      help_text: shown by --help.
      rule: what a value must be; None: its type says all.
      identity: whether the result of a run depends on it, so that a resumed run must have the same value.
    """
    return dataclasses.field(
        default=default, metadata={"help": help_text, "rule": rule, "identity": identity}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; each field is a flag and a TOML key of the same name.

    Raises:
      ConfigError: a value breaks its rule; names the flag, the rule and the value.
    """

    data: Path = _setting(
        "image folders: DATA/train/CLASS/* and DATA/validation/CLASS/*, optionally DATA/test/CLASS/*; "
        "or one tree DATA/CLASS/* with --validation-split"
    )
    model_dir: Path = _setting("versions are published as MODEL_DIR/NAME/1, 2, ...")
    name: str = _setting("name under which the model is served", "classifier", NAME)
    backbone: str = _setting("network from keras.applications, without its top", "xception")
    weights: str = _setting(
        "the backbone's weights: imagenet (downloaded by Keras), none (random, for a quick try), "
        "or a .weights.h5 file of this backbone without its top",
        "imagenet",
    )
    image_size: int | None = _setting(
        "height and width in pixels to which images are resized (default: the backbone's own size)",
        None,
        AT_LEAST_1,
    )
    resize_filter: ResizeFilter = _setting(
        "how images are made smaller: bilinear averages the pixels that it covers, nearest picks one of them "
        "(faster and rougher; it classified small images of photographs better)",
        "bilinear",
    )
    validation_split: float | None = _setting(
        "share of each class held out for validation, between 0 and 1; for a single tree only",
        None,
        BETWEEN_0_AND_1,
    )
    class_mode: ClassMode = _setting(
        "categorical or sparse: one logit per class, one-hot or integer targets; "
        "binary: two classes, one logit",
        "categorical",
    )
    class_weight: ClassWeight = _setting(
        "balanced: images of small classes count for more in the loss; none: every image counts the same",
        "none",
    )
    on_invalid_image: OnInvalidImage = _setting(
        "what to do about files that are not valid images: fail, or skip them; invalid_images.json in "
        "the run's directory lists them with the reasons either way",
        "fail",
    )
    hidden_units: int = _setting("units of a hidden Dense layer before the logits; 0: none", 0, AT_LEAST_0)
    dropout: float = _setting("share of features dropped before the logits, from 0 to below 1", 0.0, BELOW_1)
    learning_rate: float = _setting("Adam's learning rate while the head is trained", 0.001, POSITIVE)
    epochs: int = _setting("passes over the training images while the head is trained", 10, AT_LEAST_1)
    fine_tune_from: str | None = _setting(
        "after the head, also train the backbone from this layer on: a layer's name, or a block's such as "
        "block13",
        None,
    )
    fine_tune_learning_rate: float = _setting(
        "Adam's learning rate while the backbone is fine-tuned", 1e-5, POSITIVE
    )
    fine_tune_epochs: int = _setting(
        "passes over the training images while the backbone is fine-tuned", 10, AT_LEAST_1
    )
    augment_views: int = _setting(
        "copies of each training image that are flipped, rotated, zoomed and changed in contrast; each epoch "
        "shows the image or one of its copies",
        0,
        AT_LEAST_0,
    )
    batch_size: int = _setting(
        "images per replica and step; the global batch is this × replicas", 32, AT_LEAST_1
    )
    scale_learning_rate: bool = _setting("multiply the learning rates by the number of replicas", False)
    distribution: DistributionName = _setting(
        "one: one device; mirrored: all GPUs of this machine; multi-worker: the GPUs of several machines, "
        "named by TF_CONFIG or an Indexed Job's environment; auto: multi-worker if that environment is set, "
        "else mirrored",
        "auto",
    )
    cpu_replicas: int | None = _setting(
        "train on this many logical CPU devices instead of GPUs (default: one, if no GPU is visible)",
        None,
        AT_LEAST_1,
    )
    gpus: int | None = _setting(
        "GPUs that must be visible; with fewer, the run fails instead of training on the CPU",
        None,
        AT_LEAST_1,
        identity=False,
    )
    precision: Precision = _setting(
        "float32, or the backbone in 16 bits with variables in 32 (bfloat16 for A100, TPU and newer CPUs)",
        "float32",
    )
    xla: bool = _setting("compile the network with XLA: faster on GPUs, slower on CPUs", False)
    deterministic: bool = _setting(
        "use only TensorFlow operations that give the same bits in every run; this may be slower", False
    )
    feature_cache: bool = _setting(
        "run the frozen layers once per image and train on their stored output; "
        "--no-feature-cache runs them again in every epoch",
        True,
    )
    cache_dir: Path | None = _setting(
        "where the feature cache is kept, for later runs too (default: MODEL_DIR/.feature_cache)",
        None,
        identity=False,
    )
    cache_dtype: CacheDtype | None = _setting(
        "how training images' activations are stored (default: float32 for pooled features, float16 for the "
        "larger ones of --fine-tune-from); evaluation always uses float32",
        None,
    )
    run_id: str | None = _setting(
        "name of this run: starting it again resumes it and never publishes a second version (default: "
        "resume an unfinished run with the same settings and images, or begin a new one)",
        None,
        NAME,
        identity=False,
    )
    checkpoint_seconds: float = _setting(
        "how often a running training saves its state, in seconds: the most that a killed process loses",
        30.0,
        SECONDS,
        identity=False,
    )
    min_accuracy: float | None = _setting(
        "publish only if the validation accuracy is at least this, from 0 to 1", None, SHARE
    )
    must_beat_serving: bool = _setting(
        "publish only if the model beats the newest published version on the validation images", False
    )
    keep_versions: int | None = _setting(
        "after publishing, remove all but this many newest versions (default: remove none)",
        None,
        AT_LEAST_1,
        identity=False,
    )
    model_config: Path | None = _setting(
        "TensorFlow Serving's model config file: versions that its labels or its version policy name are "
        "never removed",
        None,
        identity=False,
    )
    warmup_batch_size: int = _setting(
        "the largest batch among the version's warm-up requests; keep it at or below max_batch_size of the "
        "server's batching parameters, or the version does not load",
        32,
        AT_LEAST_1,
        identity=False,
    )
    seed: int = _setting(
        "seed of initial weights, shuffling, dropout, augmentation and the validation split", 0, SEED
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            rule = rule_of(field)
            if value is not None and rule and not rule.holds(value):
                raise ConfigError(f"{flag_of(field.name)} must be {rule.text}. Received: {value!r}.")

    def to_json(self) -> str:
        """Return the resolved settings as indented JSON, paths as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the result of a run."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["identity"]
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The values that `tune` tries, in all combinations.

    Attributes:
      learning_rates: Adam's, positive.
      hidden_unit_counts: units of the hidden layer; 0: none.
      dropouts: shares of features dropped, from 0 to below 1.
    """

    learning_rates: Sequence[float] = (0.0001, 0.001, 0.01, 0.1)
    hidden_unit_counts: Sequence[int] = (10, 100, 1000)
    dropouts: Sequence[float] = (0.0, 0.2, 0.5, 0.8)

    def __post_init__(self) -> None:
        _check_values("--learning-rates", self.learning_rates, POSITIVE)
        _check_values("--hidden-unit-counts", self.hidden_unit_counts, AT_LEAST_0)
        _check_values("--dropouts", self.dropouts, BELOW_1)

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


def _check_values(flag: str, values: Sequence[float], rule: Rule) -> None:
    if not values or len(set(values)) != len(values) or not all(map(rule.holds, values)):
        received = " ".join(map(str, values)) or "none"
        raise ConfigError(
            f"{flag} must be one or more different values, each {rule.text}. Received: {received}."
        )


def check_model_name(name: str) -> None:
    """Raise ConfigError unless the name can be a directory, a servable and a metric label."""
    if not NAME.holds(name):
        raise ConfigError(f"--name must be {NAME.text}. Received: {name!r}.")


def flag_of(key: str) -> str:
    """Return the command-line flag of a setting: image_size → --image-size."""
    return "--" + key.replace("_", "-")


def rule_of(field: dataclasses.Field[Any]) -> Rule | None:
    """Return what a setting's value must be: the rule that it declares, or one of its type's few names."""
    if choices := choices_of(field.name):
        return Rule(f"one of {', '.join(choices)}", choices.__contains__)
    rule: Rule | None = field.metadata["rule"]
    return rule


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
