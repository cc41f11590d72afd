import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError, DeviceError, StorageError, TrainerError, WeightsError
from trainer.training import preflight
from trainer.training.preflight import Checks, Finding

needs_no_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="is about a machine without GPUs"
)


@pytest.fixture
def config(tmp_path: Path, image_tree: Path) -> dict[str, Any]:
    """Settings with which nothing is wrong."""
    return {"data": image_tree, "model_dir": tmp_path / "models", "name": "tiny", "weights": "none"}


def found(examination: Checks, subject: str) -> Finding:
    (finding,) = [one for one in examination.findings if one.subject == subject]
    return finding


def error_of(settings: dict[str, Any], subject: str) -> TrainerError:
    examination = preflight.run_checks(TrainConfig(**settings))
    error = found(examination, subject).error
    assert error is not None
    assert str(error) == found(examination, subject).detail
    assert "\n" not in str(error)
    assert [one.subject for one in examination.findings if one.error] == [subject]
    return error


def test_a_sound_setup_has_one_line_for_each_check_and_no_error(config: dict[str, Any]) -> None:
    examination = preflight.run_checks(TrainConfig(**config))
    assert [one.subject for one in examination.findings] == [
        *("GPUs", "shared memory", "images", "invalid images", "model directory", "model volume", "weights"),
        "feature cache",
    ]
    assert preflight.first_error(examination.findings) is None
    assert all(str(one).startswith("ok    ") and "\n" not in str(one) for one in examination.findings)
    assert found(examination, "images").detail == (
        "48 train, 60 validation, 12 test; the same 6 classes in each"
    )
    assert examination.scan is not None
    assert len(examination.scan.splits["train"]) == 48


def test_nothing_but_directories_and_the_lock_is_left_behind(config: dict[str, Any]) -> None:
    preflight.run_checks(TrainConfig(**config))
    left = [path for path in config["model_dir"].rglob("*") if path.is_file()]
    assert [path.name for path in left] == [".publish.lock"]


def test_later_checks_run_when_earlier_ones_fail_and_the_first_error_counts(config: dict[str, Any]) -> None:
    config |= {"gpus": 99, "data": Path("/nowhere"), "weights": "/nowhere/x.weights.h5"}
    examination = preflight.run_checks(TrainConfig(**config))
    failed = [one for one in examination.findings if one.error]
    assert [one.subject for one in failed] == ["GPUs", "images", "weights"]
    assert all(str(one).startswith("FAIL  ") for one in failed)
    assert examination.scan is None
    assert isinstance(preflight.first_error(examination.findings), DeviceError)
    assert isinstance(preflight.first_error(examination.findings, leaving_out={"GPUs"}), DataError)


@needs_no_gpu
def test_gpus_that_were_asked_for_must_be_visible(config: dict[str, Any]) -> None:
    error = error_of(config | {"gpus": 2}, "GPUs")
    assert isinstance(error, DeviceError)
    assert "--gpus 2" in str(error) and "Received: 0" in str(error)
    examination = preflight.run_checks(TrainConfig(**config))
    assert str(found(examination, "GPUs")) == "ok    GPUs: none visible: training on the CPU"


def test_gpus_and_cpu_replicas_exclude_each_other(config: dict[str, Any]) -> None:
    error = error_of(config | {"gpus": 1, "cpu_replicas": 2}, "GPUs")
    assert isinstance(error, ConfigError)
    assert "--gpus 1 --cpu-replicas 2" in str(error)


@pytest.mark.parametrize(
    ("required", "visible", "cpu_replicas", "named"),
    [(2, 3, None, ["3", "2"]), (None, 2, None, ["2"]), (None, 2, 4, ["--cpu-replicas 4"])],
)
def test_gpus_that_suffice_are_named(
    required: int | None, visible: int, cpu_replicas: int | None, named: list[str]
) -> None:
    detail = preflight.check_gpus(required, cpu_replicas, visible)
    assert all(word in detail for word in named)


def test_several_gpus_need_a_gibibyte_of_shared_memory() -> None:
    small, enough = 64 * 2**20, 2**30
    with pytest.raises(DeviceError, match=r"1024 MiB.*64 MiB.*/dev/shm"):
        preflight.check_shared_memory(small, gpus=2)
    assert "1024 MiB" in preflight.check_shared_memory(enough, gpus=2)
    assert "64 MiB" in preflight.check_shared_memory(small, gpus=1)
    assert "no /dev/shm" in preflight.check_shared_memory(None, gpus=2)


def test_splits_with_different_classes_are_refused(
    config: dict[str, Any], image_tree: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(image_tree, data)
    shutil.rmtree(next((data / "validation").iterdir()))
    error = error_of(config | {"data": data}, "images")
    assert isinstance(error, DataError)
    assert "only in train: " in str(error)


def test_class_mode_binary_needs_two_classes(config: dict[str, Any]) -> None:
    error = error_of(config | {"class_mode": "binary"}, "images")
    assert isinstance(error, ConfigError)
    assert "Received: 6 (" in str(error)


@pytest.fixture
def spoiled(image_tree: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the images, and the empty file that is among them."""
    data = tmp_path / "data"
    shutil.copytree(image_tree, data)
    bad = next((data / "train").iterdir()) / "bad.jpg"
    bad.touch()
    return data, bad


def test_bad_images_are_an_error_unless_they_are_to_be_skipped(
    config: dict[str, Any], spoiled: tuple[Path, Path]
) -> None:
    data, bad = spoiled
    error = error_of(config | {"data": data}, preflight.INVALID_IMAGES)
    assert isinstance(error, DataError)
    assert "1 of 121" in str(error) and f"{bad} (zero bytes)" in str(error)
    examination = preflight.run_checks(TrainConfig(**config | {"data": data, "on_invalid_image": "skip"}))
    assert (
        found(examination, preflight.INVALID_IMAGES).detail
        == f"1 will be skipped, such as {bad} (zero bytes)"
    )
    assert preflight.first_error(examination.findings) is None


def test_a_run_begins_with_the_scan_and_bad_images_are_left_to_it(
    config: dict[str, Any], spoiled: tuple[Path, Path]
) -> None:
    data, bad = spoiled
    scan = preflight.check_and_scan(TrainConfig(**config | {"data": data}))
    assert [one.path for one in scan.invalid] == [bad]


def test_the_first_error_stands_in_a_runs_way(config: dict[str, Any]) -> None:
    settings = TrainConfig(**config | {"data": Path("/nowhere"), "weights": "/nowhere/x.weights.h5"})
    with pytest.raises(DataError, match="/nowhere"):
        preflight.check_and_scan(settings)


def test_a_model_directory_that_may_not_be_written_is_refused(
    config: dict[str, Any], read_only_directory: Path
) -> None:
    data = read_only_directory / "nowhere"  # what pytest has made is closed to this user
    settings = config | {"data": data, "model_dir": read_only_directory, "feature_cache": False}
    examination = preflight.run_checks(TrainConfig(**settings))
    error = found(examination, "model directory").error
    assert isinstance(error, StorageError)
    assert "Permission denied" in str(error)
    assert " GB free in " in found(examination, "model volume").detail


def test_a_model_directory_whose_locks_do_not_hold_is_refused(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, flags: None)  # as on mounts that grant every lock
    error = error_of(config, "model directory")
    assert isinstance(error, StorageError)
    assert "lock" in str(error)


def test_a_model_volume_without_space_is_refused(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MODEL_BYTES", 10**15)
    error = error_of(config, "model volume")
    assert isinstance(error, StorageError)
    assert "1000000.0 GB" in str(error)


def test_a_model_config_that_cannot_be_read_is_refused_before_the_training(
    config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "models.config"
    error = error_of(config | {"model_config": path}, "model config")
    assert isinstance(error, ConfigError)
    path.write_text('model_config_list { config { name: "tiny" version_labels { key: "stable" value: 3 } } }')
    examination = preflight.run_checks(TrainConfig(**config | {"model_config": path}))
    assert found(examination, "model config").detail == "versions of tiny that are never removed: 3"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        pytest.param("x.weights.h5", None, "x.weights.h5", id="missing"),
        pytest.param("x.h5", b"\x89HDF\r\n\x1a\n", "x.h5", id="name"),
        pytest.param("x.weights.h5", b"version https://git-lfs", "HDF5", id="LFS pointer"),
    ],
)
def test_a_weights_file_must_exist_and_be_hdf5(
    config: dict[str, Any], tmp_path: Path, name: str, content: bytes | None, named: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    error = error_of(config | {"weights": str(path)}, "weights")
    assert isinstance(error, WeightsError)
    assert named in str(error)


def test_weights_that_exist_are_named(config: dict[str, Any], weights_file: Path) -> None:
    examination = preflight.run_checks(
        TrainConfig(**config | {"backbone": "vgg16", "weights": str(weights_file)})
    )
    assert found(examination, "weights").detail == f"{weights_file}, 59 MB"
    examination = preflight.run_checks(TrainConfig(**config))
    assert found(examination, "weights").detail.startswith("random")


def test_a_backbone_that_is_not_known_is_refused(config: dict[str, Any]) -> None:
    assert isinstance(error_of(config | {"backbone": "xeption"}, "weights"), ConfigError)


def test_imagenet_weights_are_left_to_keras_and_not_downloaded(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    settings = TrainConfig(**config | {"weights": "imagenet"})
    assert found(preflight.run_checks(settings), "weights").error is None
    assert not list(tmp_path.rglob("*.h5"))


def test_the_cache_needs_what_is_asked_for_or_what_pooled_features_take(config: dict[str, Any]) -> None:
    settings = TrainConfig(**config)
    error = found(preflight.run_checks(settings, needed_bytes=10**15), "feature cache").error
    assert isinstance(error, StorageError)
    assert "1000000.0 GB" in str(error)
    examination = preflight.run_checks(settings)
    cache = config["model_dir"] / ".feature_cache"
    assert found(examination, "feature cache").detail.endswith(f" GB free in {cache}, 1 MB needed")
    assert examination.scan is not None
    fine_tuning = preflight.run_checks(TrainConfig(**config, fine_tune_from="block13"))
    assert found(fine_tuning, "feature cache").detail.endswith(f" GB free in {cache}")
    views = preflight.run_checks(TrainConfig(**config, augment_views=30))
    needed_mb = (120 + 30 * 48) * 2048 * 4 / 1e6
    assert f"{needed_mb:.0f} MB" in found(views, "feature cache").detail


def test_a_cache_that_is_not_used_is_not_looked_at(config: dict[str, Any]) -> None:
    settings = TrainConfig(**config, feature_cache=False, cache_dir=Path("/proc/nowhere"))
    assert found(preflight.run_checks(settings), "feature cache").detail == "not used: --no-feature-cache"


def test_a_cache_that_cannot_be_written_is_refused(config: dict[str, Any]) -> None:
    error = error_of(config | {"cache_dir": Path("/proc/nowhere")}, "feature cache")
    assert isinstance(error, StorageError)
    assert "/proc/nowhere" in str(error)


EXAMINE_AND_CONFIGURE = """
import pathlib, sys
from trainer.config import TrainConfig
from trainer.training import distribution, preflight

data, model_dir = map(pathlib.Path, sys.argv[1:])
preflight.run_checks(TrainConfig(data=data, model_dir=model_dir, weights="none"))
print(distribution.mirrored_devices(3).replicas)
"""


def test_logical_devices_can_be_configured_after_an_examination(config: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXAMINE_AND_CONFIGURE, config["data"], config["model_dir"]],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "3\n", done.stderr
