import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import Grid, TrainConfig, flag_of
from trainer.errors import ConfigError

REQUIRED: dict[str, Any] = {"data": Path("d"), "model_dir": Path("m")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("fine_tune_epochs", 0),
        ("batch_size", 0),
        ("image_size", 0),
        ("cpu_replicas", 0),
        ("gpus", 0),
        ("keep_versions", 0),
        ("warmup_batch_size", 0),
        ("hidden_units", -1),
        ("augment_views", -1),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("learning_rate", float("nan")),
        ("fine_tune_learning_rate", 0.0),
        ("checkpoint_seconds", -1.0),
        ("min_accuracy", 1.1),
        ("min_accuracy", -0.1),
        ("seed", -1),
        ("seed", 2**32),
        ("validation_split", 1.0),
        ("validation_split", 0.0),
        ("class_mode", "binry"),
        ("precision", "float16"),
        ("name", "../x"),
        ("name", ""),
        ("name", ".runs"),
        ("run_id", "a/b"),
    ],
)
def test_rejects_values_out_of_range_by_flag(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        TrainConfig(**{**REQUIRED, key: value})
    assert flag_of(key) in str(raised.value)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dropout", 0.0),
        ("hidden_units", 0),
        ("seed", 2**32 - 1),
        ("min_accuracy", 1.0),
        ("min_accuracy", 0.0),
        ("checkpoint_seconds", 0.0),
        ("cache_dtype", None),
        ("run_id", None),
    ],
)
def test_accepts_the_ends_of_a_range(key: str, value: object) -> None:
    assert getattr(TrainConfig(**{**REQUIRED, key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("learning_rates", []),
        ("learning_rates", [0.1, 0.1]),
        ("learning_rates", [0.1, 0.0]),
        ("learning_rates", [float("inf")]),
        ("learning_rates", [float("nan")]),
        ("hidden_unit_counts", [-1]),
        ("dropouts", [1.0]),
    ],
)
def test_a_grid_rejects_values_by_flag(key: str, values: list[float]) -> None:
    with pytest.raises(ConfigError) as raised:
        Grid(**{key: values})  # type: ignore[arg-type]  # one key at a time
    assert flag_of(key) in str(raised.value)


def test_the_identity_of_a_run_is_what_decides_its_result() -> None:
    config = TrainConfig(**REQUIRED)
    changed = dataclasses.replace(config, epochs=11)
    resumable = dataclasses.replace(
        config,
        run_id="r",
        cache_dir=Path("elsewhere"),
        keep_versions=2,
        model_config=Path("models.config"),
        gpus=1,
        checkpoint_seconds=1.0,
        warmup_batch_size=8,
    )
    assert changed.identity() != config.identity()
    assert resumable.identity() == config.identity()


def test_resolved_settings_are_json() -> None:
    assert json.loads(TrainConfig(**REQUIRED).to_json())["data"] == "d"
