import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import TrainConfig
from trainer.data.folders import scan_folders
from trainer.data.image_set import Splits
from trainer.errors import ConfigError, StorageError
from trainer.training import run_directory
from trainer.training.run_directory import RunDirectory, choose_run_id, run_identity

CONFIG = TrainConfig(data=Path("data"), model_dir=Path("models"))


@pytest.fixture(scope="module")
def splits(image_tree: Path) -> Splits:
    return scan_folders(image_tree).splits


def begun(path: Path, config: TrainConfig, splits: Splits) -> RunDirectory:
    directory = RunDirectory(path)
    directory.begin(config, run_identity(config, splits))
    return directory


def chosen(tmp_path: Path, config: TrainConfig, splits: Splits) -> str:
    return choose_run_id(tmp_path, config, run_identity(config, splits))


def test_an_unfinished_run_of_the_same_settings_and_images_is_gone_on_with(
    tmp_path: Path, splits: Splits
) -> None:
    first = begun(tmp_path / "first", CONFIG, splits)
    first.release()
    assert chosen(tmp_path, CONFIG, splits) == "first"
    assert chosen(tmp_path, dataclasses.replace(CONFIG, seed=1), splits) != "first"
    fewer = {**splits, "test": splits["test"].without(splits["test"].paths[:1])}
    assert chosen(tmp_path, CONFIG, fewer) != "first"
    assert chosen(tmp_path, dataclasses.replace(CONFIG, keep_versions=3), splits) == "first"
    first.end({"version": 1})
    assert chosen(tmp_path, CONFIG, splits) != "first"
    assert first.outcome() == {"version": 1}


def test_a_run_is_not_gone_on_with_when_images_are_decoded_in_another_way(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "first", CONFIG, splits).release()
    monkeypatch.setattr(run_directory, "DECODING", 1)
    assert chosen(tmp_path, CONFIG, splits) != "first"
    with pytest.raises(ConfigError, match="another release"):
        begun(tmp_path / "first", CONFIG, splits)


def test_a_run_that_another_process_is_at_is_left_alone(tmp_path: Path, splits: Splits) -> None:
    begun(tmp_path / "first", CONFIG, splits).release()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "first" / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    assert chosen(tmp_path, CONFIG, splits) != "first"
    with pytest.raises(StorageError, match="first"):
        begun(tmp_path / "first", CONFIG, splits)
    other.communicate(b"\n")
    begun(tmp_path / "first", CONFIG, splits).release()


def test_a_named_run_goes_on_with_its_own_settings_only(tmp_path: Path, splits: Splits) -> None:
    named = dataclasses.replace(CONFIG, run_id="nightly")
    assert chosen(tmp_path, named, splits) == "nightly"
    begun(tmp_path / "nightly", named, splits).release()
    changed = dataclasses.replace(named, epochs=20, gpus=4)
    with pytest.raises(ConfigError, match=r"epochs 10 → 20.*--run-id"):
        begun(tmp_path / "nightly", changed, splits)
    fewer = {**splits, "test": splits["test"].without(splits["test"].paths[:1])}
    with pytest.raises(ConfigError, match="other images"):
        begun(tmp_path / "nightly", named, fewer)
