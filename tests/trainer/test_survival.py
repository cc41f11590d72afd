"""A run that is stopped, killed or out of disk space resumes at the next start, with the same result."""

from __future__ import annotations

import logging
import math
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.processes import Trainer, assert_same_bits, flags_of, result_of
from trainer.__main__ import main

Settings = dict[str, Any]

KILLS = int(os.environ.get("CHAOS_KILLS", "1"))


@pytest.fixture(scope="module")
def survivor(settings: Settings) -> Settings:
    """Every part of a run, with everything random in it: copies, dropout, two phases; saved at every step."""
    return {
        **settings,
        "run_id": "r",
        "epochs": 2,
        "dropout": 0.3,
        "augment_views": 1,
        "fine_tune_from": "block5_conv3",
        "fine_tune_learning_rate": 1e-4,
        "fine_tune_epochs": 2,
        "deterministic": True,
        "checkpoint_seconds": 0,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, survivor: Settings) -> tuple[Path, float]:
    """The model directory of an undisturbed run, and how long that took after its first line."""
    model_dir = tmp_path_factory.mktemp("undisturbed")
    trainer = Trainer({**survivor, "model_dir": model_dir})
    assert trainer.wait_for("vgg16, 32 px")
    started = time.monotonic()
    assert trainer.finish() == 0, trainer.log
    return model_dir / "tiny", time.monotonic() - started


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("vgg16, 32 px", marks=pytest.mark.soak, id="extraction"),
        pytest.param("head epoch 1/2", marks=pytest.mark.soak, id="head"),
        pytest.param("fine-tune epoch 1/2", id="fine-tune"),
    ],
)
def test_sigterm_saves_the_state_and_the_next_start_resumes(
    tmp_path: Path, survivor: Settings, undisturbed: tuple[Path, float], line: str
) -> None:
    """The Job's podFailurePolicy ignores exit code 143."""
    config = {**survivor, "model_dir": tmp_path}
    trainer = Trainer(config)
    assert trainer.wait_for(line)
    trainer.process.send_signal(signal.SIGTERM)
    assert trainer.finish() == 143, trainer.log
    assert "SIGTERM" in trainer.last_line
    resumed = Trainer(config)
    assert resumed.finish() == 0, resumed.log
    if "epoch" in line:
        assert not any("head epoch 1/2" in one for one in resumed.log)  # it did not start over
    assert_same_bits(result_of(tmp_path / "tiny", "r"), result_of(undisturbed[0], "r"))


def test_killed_at_random_moments_it_ends_with_the_same_bits(
    tmp_path: Path, survivor: Settings, undisturbed: tuple[Path, float]
) -> None:
    """SIGKILL at moments spread over the time of a run; `make chaos` does it 20 times."""
    moments = random.Random(0)
    whole, seconds = undisturbed
    kills, runs = 0, 0
    while kills < KILLS:
        model_dir = tmp_path / str(runs)
        runs += 1
        killed_here = 0
        while True:
            trainer = Trainer({**survivor, "model_dir": model_dir})
            if kills < KILLS and killed_here < 4 and trainer.wait_for("vgg16, 32 px"):
                time.sleep(moments.uniform(0, seconds))
                trainer.process.kill()
            code = trainer.finish()
            if code == 0:
                break
            assert code == -signal.SIGKILL, trainer.log
            kills += 1
            killed_here += 1
        assert_same_bits(result_of(model_dir / "tiny", "r"), result_of(whole, "r"))
        shutil.rmtree(model_dir)
    print(f"{kills} kills, {runs} runs")


# The others start no process, which saves importing TensorFlow. Deterministic operations cannot be switched
# off again in a process, so they compare with a tolerance.


@pytest.fixture
def train(tmp_path: Path, survivor: Settings, caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """`python -m trainer train` in this process; returns the exit code."""
    caplog.set_level(logging.INFO, "trainer")
    flags = flags_of({**survivor, "deterministic": False, "model_dir": tmp_path})
    return lambda: main(["train", *flags])


def assert_as_undisturbed(model_directory: Path, undisturbed: Path) -> None:
    (values, history), (expected, its_history) = result_of(model_directory, "r"), result_of(undisturbed, "r")
    for one, other in zip(history, its_history, strict=True):
        assert (one["phase"], one["epoch"], one["accuracy"]) == (
            other["phase"],
            other["epoch"],
            other["accuracy"],
        )
        assert math.isclose(one["loss"], other["loss"], rel_tol=1e-4)
        assert math.isclose(one["val_loss"], other["val_loss"], rel_tol=1e-4)
    assert len(values) == len(expected) > 10
    for left in values:
        same_shape = (right for right in expected if right.shape == left.shape)
        assert any(np.allclose(left, right, atol=1e-5) for right in same_shape)


class SigtermAt(logging.Handler):
    """Sends this process SIGTERM as soon as a line of the log holds a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            signal.raise_signal(signal.SIGTERM)

    def __enter__(self) -> None:
        # If the trainer did not handle the signal, it would end the tests.
        self.before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.getLogger("trainer").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("trainer").removeHandler(self)
        signal.signal(signal.SIGTERM, self.before)


def test_a_run_that_is_stopped_in_extraction_and_then_in_the_head_resumes(
    tmp_path: Path,
    train: Callable[[], int],
    undisturbed: tuple[Path, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for line in ("vgg16, 32 px", "head epoch 1/2"):
        with SigtermAt(line):
            assert train() == 143
    caplog.clear()
    assert train() == 0
    assert "head epoch 1/2" not in caplog.text
    assert_as_undisturbed(tmp_path / "tiny", undisturbed[0])


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let this process write no larger files: the kernel refuses that in the same call as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_volume_is_one_line_and_the_next_start_resumes(
    tmp_path: Path,
    train: Callable[[], int],
    undisturbed: tuple[Path, float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Too small for the feature cache, then for the run's state."""
    for size_bytes, path in ((60_000, ".feature_cache"), (2_000_000, ".runs/r")):
        with largest_file(size_bytes):
            assert train() == 8
        (*_, line) = capsys.readouterr().err.splitlines()
        assert path in line and "File too large" in line
        assert not list((tmp_path / "tiny").glob("[0-9]*"))
        assert not list(tmp_path.rglob("*.partial"))
    assert train() == 0
    assert_as_undisturbed(tmp_path / "tiny", undisturbed[0])
