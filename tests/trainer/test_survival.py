"""A trainer that is stopped, killed or out of space goes on at the next start, to the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.processes import Trainer, assert_same_bits, result_of

Settings = dict[str, Any]

KILLS = int(os.environ.get("CHAOS_KILLS", "3"))


@pytest.fixture(scope="module")
def survivor(settings: Settings) -> Settings:
    """Every part of a run, with everything random in it: copies, dropout, two phases; saved at every step."""
    return {
        **settings,
        "run_id": "r",
        "epochs": 4,
        "dropout": 0.3,
        "augment_views": 1,
        "fine_tune_from": "block5",
        "fine_tune_learning_rate": 1e-4,
        "fine_tune_epochs": 2,
        "deterministic": True,
        "checkpoint_seconds": 0,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, survivor: Settings) -> tuple[Path, float]:
    """The model directory of a run that nobody disturbed, and how long it took after its first line."""
    model_dir = tmp_path_factory.mktemp("undisturbed")
    trainer = Trainer({**survivor, "model_dir": model_dir})
    assert trainer.wait_for("vgg16, 32 px")
    started = time.monotonic()
    assert trainer.finish() == 0, trainer.log
    return model_dir / "tiny", time.monotonic() - started


@pytest.mark.parametrize("line", ["vgg16, 32 px", "head epoch 2/4", "fine-tune epoch 1/2"])
def test_sigterm_saves_the_state_and_the_next_start_goes_on(
    tmp_path: Path, survivor: Settings, undisturbed: tuple[Path, float], line: str
) -> None:
    """During extraction and in both phases; 143 is what the Job's podFailurePolicy ignores."""
    config = {**survivor, "model_dir": tmp_path}
    trainer = Trainer(config)
    assert trainer.wait_for(line)
    trainer.process.send_signal(signal.SIGTERM)
    assert trainer.finish() == 143, trainer.log
    assert trainer.last_line.startswith("python -m trainer train: Stopped by SIGTERM. What was done is saved")
    resumed = Trainer(config)
    assert resumed.finish() == 0, resumed.log
    if "epoch" in line:
        assert not any("head epoch 1/4" in one for one in resumed.log)  # it did not begin again
    assert_same_bits(result_of(tmp_path / "tiny", "r"), result_of(undisturbed[0], "r"))


def test_killed_at_random_moments_it_ends_with_the_same_bits(
    tmp_path: Path, survivor: Settings, undisturbed: tuple[Path, float]
) -> None:
    """SIGKILL at moments spread over what a run takes; `make chaos` does it 20 times."""
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


@pytest.mark.parametrize(
    ("largest_file_bytes", "part"),
    [
        pytest.param(60_000, "The feature cache cannot take a shard", id="cache"),
        pytest.param(2_000_000, "The run's state cannot be saved", id="checkpoint"),
    ],
)
def test_a_volume_that_takes_no_more_is_one_line_and_nothing_good_is_lost(
    tmp_path: Path, survivor: Settings, undisturbed: tuple[Path, float], largest_file_bytes: int, part: str
) -> None:
    """A limit on the size of files is refused by the kernel in the same call as a full disk."""
    config = {**survivor, "model_dir": tmp_path}
    full = Trainer(config, largest_file_bytes=largest_file_bytes)
    assert full.finish() == 8, full.log
    assert part in full.last_line and "File too large" in full.last_line
    assert not list((tmp_path / "tiny").glob("[0-9]*"))
    assert not list(tmp_path.rglob("*.partial"))
    again = Trainer(config)
    assert again.finish() == 0, again.log
    assert_same_bits(result_of(tmp_path / "tiny", "r"), result_of(undisturbed[0], "r"))
