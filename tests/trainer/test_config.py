import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trainer import __main__ as cli
from trainer import config
from trainer.config import TrainConfig
from trainer.errors import ConfigError

REQUIRED: dict[str, Any] = {"data": Path("d"), "model_dir": Path("m")}


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_flags_win_over_toml_and_toml_over_defaults(tmp_path: Path) -> None:
    path = toml(tmp_path, 'data = "from-toml"\nepochs = 3\nseed = 5\nlearning_rate = 1\nprefix_cache = false')
    resolved = config.resolve({"model_dir": Path("m"), "seed": 9}, path)
    assert (resolved.data, resolved.epochs, resolved.seed) == (Path("from-toml"), 3, 9)
    assert (resolved.learning_rate, resolved.feature_cache) == (1.0, False)
    assert resolved.batch_size == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "learning_rat = 1", "unknown key 'learning_rat'. Did you mean 'learning_rate'", id="near name"
        ),
        pytest.param("zzz = 1", "unknown key 'zzz'. Known keys: data, ", id="no near name"),
        pytest.param("epochs = '3'", "epochs must be of type int. Received: '3'", id="wrong type"),
        pytest.param("epochs = true", "epochs must be of type int. Received: True", id="bool for int"),
        pytest.param("epochs = ", "not valid TOML", id="not TOML"),
    ],
)
def test_rejects_toml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.resolve(REQUIRED, toml(tmp_path, text))


def test_rejects_a_toml_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.resolve(REQUIRED, tmp_path / "nowhere.toml")


def test_names_every_missing_setting() -> None:
    with pytest.raises(ConfigError, match="--data and --model-dir must be given"):
        config.resolve({})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("image_size", 0),
        ("cpu_replicas", 0),
        ("hidden_units", -1),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("learning_rate", float("nan")),
        ("seed", -1),
        ("validation_split", 1.0),
        ("class_mode", "binry"),
        ("name", "../x"),
        ("name", ""),
        ("name", ".runs"),
    ],
)
def test_rejects_values_out_of_range_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key.replace('_', '[-_]')}.*must.*Received"):
        TrainConfig(**{**REQUIRED, key: value})


def test_every_setting_is_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    printed = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert config.flag_of(field.name) in printed
        assert field.metadata["help"]


def test_resolved_settings_are_json() -> None:
    assert json.loads(TrainConfig(**REQUIRED).to_json())["data"] == "d"
