"""Several processes train one model, as the pods of an Indexed Job do."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.pictures import undecodable_picture
from tests.trainer.processes import Trainer, tf_configs
from trainer import run
from trainer.config import TrainConfig

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def shared(settings: Settings) -> Settings:
    """Without dropout, whose masks differ between replicas."""
    changes = {
        "run_id": "r",
        "epochs": 2,
        "augment_views": 1,
        "fine_tune_from": "block5_conv3",
        "fine_tune_learning_rate": 1e-4,
        "fine_tune_epochs": 1,
        "on_invalid_image": "skip",
    }
    return {key: value for key, value in {**settings, **changes}.items() if key != "cpu_replicas"}


def history(model_dir: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((model_dir / "tiny/.runs/r/history.json").read_text())
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, shared: Settings) -> Path:
    """The model directory of one process with the global batch of 12 that two or three workers share."""
    model_dir = tmp_path_factory.mktemp("alone")
    run.train(TrainConfig(**{**shared, "model_dir": model_dir, "batch_size": 12}))
    return model_dir


def started(config: Settings, workers: int) -> list[Trainer]:
    config = {**config, "batch_size": 12 // workers, "distribution": "multi-worker"}
    return [Trainer(config, environment) for environment in tf_configs(workers)]


def assert_same_history(left: Path, right: Path) -> None:
    for one, other in zip(history(left), history(right), strict=True):
        assert one["phase"] == other["phase"]
        assert math.isclose(one["loss"], other["loss"], rel_tol=1e-4)
        assert math.isclose(one["val_loss"], other["val_loss"], rel_tol=1e-4)
        assert one["accuracy"] == other["accuracy"]


def assert_one_version_of_all_images(model_dir: Path, alone: Path, trainers: list[Trainer]) -> None:
    """The workers computed what one process computes, once, and only the chief published and logged."""
    assert_same_history(model_dir, alone)
    assert [path.name for path in (model_dir / "tiny").glob("[0-9]*")] == ["1"]
    assert any("head epoch 2/2" in line for line in trainers[0].log)
    assert [trainer.own_log for trainer in trainers[1:]] == [[]] * (len(trainers) - 1)
    # Each image and copy is stored once: the workers' shares do not overlap.
    for cache in (model_dir / ".feature_cache").iterdir():
        shards = [json.loads(path.read_text()) for path in cache.glob("*.json") if path.stem != "content"]
        keys = [key for shard in shards for key in shard["keys"]]
        assert len(keys) == len(set(keys)) > 0


@pytest.mark.soak
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_give_the_history_of_one_process_and_the_chief_alone_publishes(
    tmp_path: Path, shared: Settings, alone: Path, workers: int
) -> None:
    trainers = started({**shared, "model_dir": tmp_path}, workers)
    assert [trainer.finish() for trainer in trainers] == [0] * workers, [one.log for one in trainers]
    assert_one_version_of_all_images(tmp_path, alone, trainers)


def test_a_lost_worker_ends_the_others_and_all_resume_from_the_last_state(
    tmp_path: Path, shared: Settings, alone: Path
) -> None:
    config = {**shared, "model_dir": tmp_path, "checkpoint_seconds": 0}
    chief, worker = started(config, 2)
    assert chief.wait_for("head epoch 1/2")
    worker.process.kill()
    killed = time.monotonic()
    assert chief.finish() == 9, chief.log
    assert time.monotonic() - killed < 60
    worker.finish()
    assert "Worker 0 of 2" in chief.last_line
    again = started(config, 2)
    assert [trainer.finish() for trainer in again] == [0, 0], [one.log for one in again]
    assert not any("head epoch 1/2" in line for line in again[0].log)
    assert_one_version_of_all_images(tmp_path, alone, again)


def test_all_workers_leave_out_an_image_that_one_of_them_cannot_decode(
    tmp_path: Path, shared: Settings, image_tree: Path
) -> None:
    data = shutil.copytree(image_tree, tmp_path / "images")
    (data / "train" / "sun" / "000.jpg").write_bytes(undecodable_picture())
    trainers = started({**shared, "data": data, "model_dir": tmp_path / "models", "epochs": 1}, 2)
    assert [trainer.finish() for trainer in trainers] == [0, 0], [one.log for one in trainers]
    (listed,) = json.loads((tmp_path / "models/tiny/.runs/r/invalid_images.json").read_text())
    assert Path(listed["path"]).name == "000.jpg"
