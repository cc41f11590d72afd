"""The benchmarks: each documented command runs in its short form, and a limit that is missed fails a run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import client, figures, serving, training

ROOT = Path(__file__).parents[1]
KEYS = {
    "benchmarks.training": {*training.LIMITS, "contenders"},
    "benchmarks.fine_tuning": {
        *("epochs", "head_val_accuracy", "published_val_accuracy", "correct", "count", "seconds"),
    },
    "benchmarks.resize_filter": {"val_accuracies", "mean_val_accuracy"},
    "benchmarks.serving": {*serving.LIMITS, "floor", "servers"},
    "benchmarks.workers": {"seconds", "speedup"},
    "benchmarks.client": {
        *client.LIMITS,
        *("import_s", "tensorflow_serving_import_s", "tensorflow_serving_import_mb"),
        *("classify_ms", "preprocess_and_bare_call_ms"),
        *("request_build_ms", "make_tensor_proto_ms", "tensorflow_request_bytes_ms"),
        *("jpeg_to_request_images_per_s", "jpeg_to_request_one_thread_images_per_s"),
        *("load_img_images_per_s", "jpeg_to_request_one_thread_ratio", "tensorflow_serving_env_mb"),
    },
}
"""What each writes with --json, besides `quick` and `environment`."""


def documented_commands() -> list[str]:
    """Return each command of docs/benchmarks.md, except the one that runs tests/test_measured.py."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text.replace("\\\n", " "), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith("make measured ")]


@pytest.mark.bench
@pytest.mark.parametrize("command", documented_commands())
def test_a_documented_command_has_a_short_form_that_writes_every_figure(command: str, tmp_path: Path) -> None:
    python, minus_m, module, *flags = shlex.split(command)
    assert (python, minus_m) == ("python", "-m")
    out = tmp_path / "out.json"
    flags[flags.index("--json") + 1] = str(out)
    done = subprocess.run(
        [sys.executable, "-m", module, *flags, "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written.keys() == KEYS[module] | {"quick", "environment"}
    assert written["quick"] is True
    assert {"cpu", "cores", "python", "tensorflow", "date"} <= written["environment"].keys()


def test_every_benchmark_is_documented_and_its_keys_are_known() -> None:
    programs = {
        f"benchmarks.{path.stem}"
        for path in (ROOT / "benchmarks").glob("*.py")
        if "figures.finish(" in path.read_text()
    }
    assert programs == {shlex.split(command)[2] for command in documented_commands()} == KEYS.keys()


def test_benchmarks_depend_on_no_test() -> None:
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not re.search(r"\btests\.|import tests\b|conftest", path.read_text()), path


LIMITS: figures.Limits = {"speedup": (">=", 11), "overhead_ms": ("<=", 1)}


@pytest.mark.parametrize(
    ("speedup", "overhead_ms", "held"),
    [(11, 1, True), (10.99, 1, False), (11, 1.01, False), (12, 0, True)],
)
def test_limits_hold_on_their_side_of_the_value(speedup: float, overhead_ms: float, held: bool) -> None:
    assert figures.check_limits({"speedup": speedup, "overhead_ms": overhead_ms}, LIMITS) is held


@pytest.mark.parametrize(
    ("speedup", "quick", "exit_code"),
    [
        pytest.param(11, False, 0, id="limits hold"),
        pytest.param(2, False, 1, id="a limit is missed"),
        pytest.param(2, True, 0, id="--quick checks no limit"),
    ],
)
def test_a_missed_limit_ends_a_run_with_1_after_the_figures_are_written(
    speedup: float, quick: bool, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    arguments = argparse.Namespace(json=out, quick=quick)
    assert figures.finish({"speedup": speedup, "overhead_ms": 0.5}, LIMITS, arguments) == exit_code
    written = json.loads(out.read_text())
    assert (written["speedup"], written["quick"]) == (speedup, quick)
    printed = capsys.readouterr().out
    assert ("MISSED" in printed) == (exit_code == 1)
    assert ("--quick" in printed) == quick


@pytest.mark.parametrize(
    ("main", "argv", "named"),
    [
        pytest.param(training.main, ["--weights", __file__], "--data", id="a required input is left out"),
        pytest.param(
            training.main, ["--data", "nowhere", "--weights", __file__], "nowhere", id="no such folder"
        ),
        pytest.param(serving.main, ["--weights", "no.weights.h5"], "no.weights.h5", id="no such file"),
        pytest.param(
            client.main, ["--json", "nowhere/out.json"], "nowhere/out.json", id="no folder for JSON"
        ),
    ],
)
def test_wrong_arguments_end_with_2_before_anything_is_measured(
    main: Callable[[Sequence[str]], int],
    argv: Sequence[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_jpeg_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape(str(tmp_path))):
        client.main(["--data", str(tmp_path)])


def test_a_failure_in_a_process_of_its_own_ends_the_benchmark() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        figures.call_in_new_process("training", "contend", "nobody", "{}")


def test_training_is_compared_with_the_recipe_of_the_same_run() -> None:
    def outcome(seconds: float, val_accuracy: float, **more: Any) -> training.Outcome:
        return {"seconds": seconds, "val_accuracy": val_accuracy, **more}

    compared = training.compare(
        {
            "recipe": outcome(2000, 0.80, epoch_seconds=200),
            "cold": outcome(160, 0.79),
            "warm": outcome(10, 0.79),
            "tune": outcome(100, 0.85),
        }
    )
    assert compared == pytest.approx(
        {
            "speedup_cold": 12.5,
            "speedup_warm": 200,
            "tune_over_epoch": 0.5,
            "accuracy_below_recipe": 0.01,
        }
    )
    assert compared.keys() == training.LIMITS.keys()
