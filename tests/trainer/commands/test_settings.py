import dataclasses
from pathlib import Path
from typing import Any

import pytest

from trainer import __main__ as cli
from trainer.commands import settings
from trainer.config import TrainConfig, flag_of
from trainer.errors import ConfigError

REQUIRED: dict[str, Any] = {"data": Path("d"), "model_dir": Path("m")}


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_flags_win_over_toml_and_toml_over_a_trial_and_a_trial_over_defaults(tmp_path: Path) -> None:
    path = toml(
        tmp_path, 'data = "from-toml"\nepochs = 3\nseed = 5\nlearning_rate = 1\nfeature_cache = false'
    )
    trial = {"epochs": 7, "dropout": 0.5}
    resolved = settings.resolve({"model_dir": Path("m"), "seed": 9}, path, lambda given: trial)
    assert (resolved.data, resolved.epochs, resolved.seed) == (Path("from-toml"), 3, 9)
    assert (resolved.learning_rate, resolved.feature_cache, resolved.dropout) == (1.0, False, 0.5)
    assert resolved.batch_size == 32


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("learning_rat = 1", ["'learning_rat'", "'learning_rate'"], id="near name"),
        pytest.param("zzz = 1", ["'zzz'", "data, "], id="no near name"),
        pytest.param("epochs = '3'", ["epochs", "int", "'3'"], id="wrong type"),
        pytest.param("epochs = true", ["epochs", "int", "True"], id="bool for int"),
        pytest.param("epochs = ", ["TOML"], id="not TOML"),
    ],
)
def test_rejects_toml_by_what_is_wrong_with_it(tmp_path: Path, text: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        settings.resolve(REQUIRED, toml(tmp_path, text))
    for word in named:
        assert word in str(raised.value)


def test_rejects_a_toml_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        settings.resolve(REQUIRED, tmp_path / "nowhere.toml")


def test_names_every_missing_setting() -> None:
    with pytest.raises(ConfigError, match=r"--data.*--model-dir"):
        settings.resolve({})


def test_pairs_are_converted_and_checked() -> None:
    pairs = ["epochs=20", "learning-rate=0.1", "xla=true", "cache_dir=/c"]
    assert settings.from_pairs(pairs) == {
        "epochs": 20,
        "learning_rate": 0.1,
        "xla": True,
        "cache_dir": Path("/c"),
    }


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        ("epochs", "epochs"),
        ("epochs=many", "many"),
        ("xla=1", "xla"),
        ("zzz=1", "zzz"),
        ("epochs=0", "--epochs"),
    ],
)
def test_rejects_a_pair_by_name(pair: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings.from_pairs([pair])


def test_every_setting_is_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    printed = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert flag_of(field.name) in printed
        assert field.metadata["help"]
