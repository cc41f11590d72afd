"""What benchmarks/training.py says: its figures, how they follow from each other, its exits."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmarks_training", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file that looks like weights as long as nobody reads it."""
    path = tmp_path / "some.weights.h5"
    path.touch()
    return path


def outcomes(training: ModuleType, **seconds: float) -> dict[str, Any]:
    details = {
        "recipe": {"epoch_seconds": 200.0, "measured_epochs": 2, "val_accuracies": [0.8] * 10},
        "floor": {"batch_size": 8},
        "tune": {"trials": 48},
    }
    return {
        name: training.Outcome(one, 1000, None if name == "floor" else 0.8, 900.0, details.get(name, {}))
        for name, one in seconds.items()
    }


FAST = {"recipe": 2000, "floor": 150, "cold": 160, "warm": 10, "tune": 100}


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        pytest.param({}, set(), id="all reached"),
        pytest.param({"cold": 190, "floor": 180}, {"speedup_cold"}, id="cold 10.5 times as fast"),
        pytest.param({"warm": 34}, {"speedup_warm"}, id="warm 59 times as fast"),
        pytest.param({"floor": 138}, {"floor_ratio"}, id="1.16 times the floor"),
        pytest.param({"tune": 201}, {"tune_over_epoch"}, id="tune longer than an epoch"),
    ],
)
def test_a_target_that_is_not_reached_is_missed(
    training: ModuleType, changed: dict[str, float], missed: set[str]
) -> None:
    targets = training.targets_of(outcomes(training, **{**FAST, **changed}))
    assert {target.key for target in targets if target.missed} == missed


@pytest.mark.parametrize(("accuracy", "missed"), [(0.7900, False), (0.7899, True)])
def test_accuracy_may_be_one_point_below_the_recipe(
    training: ModuleType, accuracy: float, missed: bool
) -> None:
    measured = outcomes(training, **FAST)
    measured["cold"] = training.Outcome(160, 1000, accuracy, 900.0, {})
    assert [target.missed for target in training.targets_of(measured) if target.key == "val_accuracy"] == [
        missed
    ]


def test_what_was_not_measured_is_not_missed(training: ModuleType) -> None:
    targets = training.targets_of(outcomes(training, recipe=2000))
    assert [(target.value, target.missed) for target in targets] == [(None, False)] * 5
    assert all("–" in target.in_words() for target in targets)


def test_table_says_what_is_extrapolated_and_fits_100_columns(training: ModuleType) -> None:
    text = training.table(outcomes(training, **FAST))
    assert "extrapolated from 2 measured epoch(s) to 10" in text
    assert "batch size 8" in text
    assert "12.50" in text  # cold: 2000 / 160
    assert max(map(len, text.splitlines())) <= 100


def test_warm_and_tune_need_the_features_of_cold(training: ModuleType) -> None:
    assert training._wanted(["tune"]) == ["cold", "tune"]
    assert training._wanted(["warm", "recipe"]) == ["recipe", "cold", "warm"]
    assert training._wanted(["floor"]) == ["floor"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(["--data", "nowhere"], "nowhere without train", id="data"),
        pytest.param(["--weights", "nowhere.weights.h5"], "nowhere.weights.h5", id="weights"),
        pytest.param(["--json", "nowhere/out.json"], "nowhere/out.json", id="json"),
        pytest.param(["--only", "cold,hot"], "hot", id="only"),
        pytest.param(["--image-size", "70"], "at least 71. Received: 70", id="image size"),
        pytest.param(["--recipe-epochs", "11"], "11 of 10", id="recipe epochs"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_one_line(
    training: ModuleType,
    image_tree: Path,
    weights: Path,
    arguments: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = ["--data", str(image_tree), "--weights", str(weights)]
    assert training.main([*good, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


# Five processes that each import TensorFlow and build Xception: minutes.
@pytest.mark.measured
def test_a_run_writes_every_figure(image_tree: Path, tmp_path: Path) -> None:
    weights, out = tmp_path / "xception.weights.h5", tmp_path / "out.json"
    keras.applications.Xception(include_top=False, weights=None, input_shape=(71, 71, 3)).save_weights(
        weights
    )
    ended = subprocess.run(
        [
            *(sys.executable, SCRIPT, "--data", image_tree, "--weights", weights, "--json", out),
            *("--image-size", "71", "--epochs", "2", "--recipe-epochs", "1"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    figures = json.loads(out.read_text())
    contenders = figures["contenders"]
    seconds = {name: one["seconds"] for name, one in contenders.items()}
    assert figures["speedup_cold"] == pytest.approx(seconds["recipe"] / seconds["cold"])
    assert figures["speedup_warm"] == pytest.approx(seconds["recipe"] / seconds["warm"])
    assert figures["floor_ratio"] == pytest.approx(seconds["cold"] / seconds["floor"])
    recipe = contenders["recipe"]["details"]
    assert figures["tune_over_epoch"] == pytest.approx(seconds["tune"] / recipe["epoch_seconds"])
    assert seconds["recipe"] == pytest.approx(recipe["setup_seconds"] + 2 * recipe["epoch_seconds"])
    assert len(recipe["val_accuracies"]) == 2
    assert figures["val_accuracy"] == contenders["cold"]["val_accuracy"]
    assert contenders["warm"]["val_accuracy"] == contenders["cold"]["val_accuracy"]
    assert figures["val_accuracy_recipe"] == max(recipe["val_accuracies"])
    # 6 classes of 8 training, 10 validation and 2 test images; tune: 48 trials.
    images = {name: one["images"] for name, one in contenders.items()}
    assert images == {"recipe": 96, "floor": 120, "cold": 96, "warm": 96, "tune": 48 * 96}
    assert all(100 < one["peak_memory_mb"] < 10_000 for one in contenders.values())
    assert {"settings", "machine", "versions", "date"} <= figures.keys()
    # A set this small reaches no target; the exit code says so.
    assert ended.returncode == any(target["missed"] for target in figures["targets"])
    assert ("MISSED" in ended.stdout) == bool(ended.returncode)
