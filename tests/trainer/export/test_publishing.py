import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import tiny_saved_model
from trainer.errors import StorageError
from trainer.export.model_card import ModelCard
from trainer.export.publishing import ModelDirectory
from trainer.model import find_backbone

CARD = ModelCard(
    name="m",
    weights_digest="",
    labels=["a", "b"],
    image_size_px=32,
    backbone=find_backbone("mobilenetv2"),
    weights="none",
    data={},
    metrics={},
    config={},
)


def save_slowly(directory: Path, card: str) -> None:
    """Write the files of a SavedModel, with pauses in which a reader can look."""
    (directory / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        (directory / name).write_text(card)
        time.sleep(0.003)


def test_a_reader_in_a_tight_loop_sees_complete_versions_only(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    stop = threading.Event()
    seen: set[str] = set()
    incomplete: list[str] = []

    def look() -> None:
        expected = {"saved_model.pb", "variables", "assets.extra"}
        while not stop.is_set():
            for name in os.listdir(directory.path):
                if not name.isdecimal():
                    continue
                seen.add(name)
                version = directory.path / name
                if set(os.listdir(version)) != expected or len(os.listdir(version / "variables")) != 2:
                    incomplete.append(name)

    reader = threading.Thread(target=look)
    reader.start()
    versions = [directory.publish(CARD, save_slowly) for _ in range(30)]
    stop.set()
    reader.join()
    assert versions == list(range(1, 31))
    assert len(seen) >= 25
    assert not incomplete


def test_the_card_in_the_version_names_the_version(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    (directory.path / "7").mkdir()
    given: list[str] = []

    def save(path: Path, card: str) -> None:
        path.mkdir()
        given.append(card)

    assert directory.publish(CARD, save) == 8
    written = (directory.path / "8" / "assets.extra" / "model_card.json").read_text()
    assert given == [written]
    assert json.loads(written)["version"] == 8


def test_a_number_is_never_used_twice(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    for version in (1, 2, 3):
        assert directory.publish(CARD, save_slowly) == version
    for removed in ("2", "3"):  # a rollback
        shutil.rmtree(directory.path / removed)
    assert directory.publish(CARD, save_slowly) == 4


def test_a_run_publishes_once(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    card = dataclasses.replace(CARD, run_id="monday")
    assert directory.publish(card, save_slowly) == 1
    assert directory.publish(card, save_slowly) == 1
    assert directory.publish(dataclasses.replace(CARD, run_id="tuesday"), save_slowly) == 2
    assert directory.publish(card, save_slowly) == 1
    assert directory.versions() == [1, 2]


def test_every_file_is_on_disk_before_the_version_is_visible_and_the_rename_after(
    tmp_path: Path, synced: list[tuple[Path, frozenset[str]]]
) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    synced.clear()
    directory.publish(CARD, save_slowly)
    version = directory.path / "1"
    staging = directory.path / ".staging-1"
    while_staged = {path for path, names in synced if staging.name in names}
    assert {staging / path.relative_to(version) for path in [version, *version.rglob("*")]} <= while_staged
    assert [path for path, names in synced if version.name in names] == [directory.path]


def test_a_failed_rename_publishes_nothing_and_skips_the_number(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()

    def save_and_lose(path: Path, card: str) -> None:
        save_slowly(path, card)
        (directory.path / "1").mkdir()  # another process creates the directory, with a file in it
        (directory.path / "1" / "theirs").touch()

    with pytest.raises(StorageError, match=str(tmp_path)):
        directory.publish(CARD, save_and_lose)
    assert [path.name for path in (directory.path / "1").iterdir()] == ["theirs"]
    assert directory.publish(CARD, save_slowly) == 2


def test_prepare_does_not_wait_for_another_publisher(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    with directory.locked():
        directory.prepare()  # must return
        assert directory.versions() == []


def test_a_failed_save_leaves_nothing_visible_and_the_next_takes_its_number(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()

    def fail(path: Path, card: str) -> None:
        path.mkdir()
        (path / "saved_model.pb").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        directory.publish(CARD, fail)
    assert [path.name for path in directory.path.iterdir()] == [".publish.lock"]
    assert directory.publish(CARD, save_slowly) == 1


KILLED_PUBLISHER = """
import pathlib, sys
from trainer.export import ModelCard, ModelDirectory
from trainer.model import find_backbone

def save(path, card):
    path.mkdir()
    (path / "saved_model.pb").touch()
    print("saving", flush=True)
    sys.stdin.read()

card = ModelCard(
    name="m", weights_digest="", labels=["a", "b"], image_size_px=32, backbone=find_backbone("vgg16"),
    weights="none", data={}, metrics={}, config={},
)
ModelDirectory(pathlib.Path(sys.argv[1]), "m").publish(card, save)
"""


def test_a_publisher_killed_while_writing_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED_PUBLISHER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "saving\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (directory.path / ".staging-1").exists()
    assert directory.versions() == []
    assert directory.publish(CARD, save_slowly) == 1
    assert not (directory.path / ".staging-1").exists()


def publish_some(model_dir: Path, count: int) -> None:
    for _ in range(count):
        ModelDirectory(model_dir, "m").publish(CARD, save_slowly)


def test_publishers_at_the_same_time_take_different_numbers(tmp_path: Path) -> None:
    ModelDirectory(tmp_path, "m").prepare()
    threads = [threading.Thread(target=publish_some, args=(tmp_path, 4)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ModelDirectory(tmp_path, "m").versions() == list(range(1, 13))


def test_a_version_can_be_read_by_another_user(tmp_path: Path) -> None:
    """TensorFlow Serving runs as another user, who may not read a directory made by mkdtemp."""
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    directory.publish(CARD, lambda path, card: tiny_saved_model(path, 1.0))
    for path in (directory.path / "1", *(directory.path / "1").rglob("*")):
        assert path.stat().st_mode & 0o004, path


def test_prepare_refuses_a_directory_without_write_permission(read_only_directory: Path) -> None:
    with pytest.raises(StorageError, match="Permission denied"):
        ModelDirectory(read_only_directory, "m").prepare()


def test_prepare_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file")
    with pytest.raises(StorageError, match=str(tmp_path / "m")):
        ModelDirectory(tmp_path, "m").prepare()


def test_prepare_leaves_nothing_behind(tmp_path: Path) -> None:
    ModelDirectory(tmp_path, "m").prepare()
    assert [path.name for path in (tmp_path / "m").iterdir()] == [".publish.lock"]
