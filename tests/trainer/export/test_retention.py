import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.errors import ConfigError, StorageError
from trainer.export.publishing import ModelDirectory
from trainer.export.retention import protected_versions, remove_old_versions


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    """A model with the versions 1 to 5, each of three files in two folders."""
    directory = ModelDirectory(tmp_path, "m")
    directory.prepare()
    for version in range(1, 6):
        variables = directory.path / str(version) / "variables"
        variables.mkdir(parents=True)
        for path in (variables.parent / "saved_model.pb", variables / "index", variables / "data"):
            path.touch()
    return directory


@pytest.mark.parametrize(
    ("keep", "protected", "removed"),
    [
        pytest.param(2, set(), [1, 2, 3], id="oldest first"),
        pytest.param(2, {2}, [1, 3], id="a protected version stays"),
        pytest.param(2, {5}, [1, 2, 3], id="a protected version among the newest is counted once"),
        pytest.param(5, set(), [], id="as many as there are"),
        pytest.param(9, set(), [], id="more than there are"),
        pytest.param(1, {1, 2, 3, 4}, [], id="all protected"),
    ],
)
def test_all_but_the_newest_and_the_protected_are_removed(
    directory: ModelDirectory, keep: int, protected: set[int], removed: list[int]
) -> None:
    assert remove_old_versions(directory, keep, protected) == removed
    assert directory.versions() == sorted({1, 2, 3, 4, 5} - set(removed))
    assert not list(directory.path.glob(".removed-*"))


def test_no_reader_sees_a_partly_removed_version(
    directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    incomplete: list[str] = []
    rmtree = shutil.rmtree

    def look_and_remove(path: Path) -> None:
        (path / "saved_model.pb").unlink()
        for version in directory.versions():
            if not (directory.path / str(version) / "saved_model.pb").exists():
                incomplete.append(str(version))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", look_and_remove)
    assert remove_old_versions(directory, 1, ()) == [1, 2, 3, 4]
    assert not incomplete


def test_each_rename_is_on_disk_before_the_deletion(
    directory: ModelDirectory, synced: list[tuple[Path, frozenset[str]]]
) -> None:
    synced.clear()
    assert remove_old_versions(directory, 3, ()) == [1, 2]
    names = [names for path, names in synced if path == directory.path]
    assert any(".removed-1" in at_once and "1" not in at_once for at_once in names)
    assert any(".removed-2" in at_once and "2" not in at_once for at_once in names)


KILLED_REMOVAL = """
import os, pathlib, shutil, sys
from trainer.export import ModelDirectory, remove_old_versions

def remove_half(path):
    (path / "saved_model.pb").unlink()
    os._exit(137)

shutil.rmtree = remove_half
remove_old_versions(ModelDirectory(pathlib.Path(sys.argv[1]), "m"), 2, ())
"""


def test_the_next_removal_completes_a_killed_one(directory: ModelDirectory, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_REMOVAL, str(tmp_path)], capture_output=True)
    assert killed.returncode == 137
    assert (directory.path / ".removed-1").exists()
    assert directory.versions() == [2, 3, 4, 5]
    assert remove_old_versions(directory, 4, ()) == []
    assert not (directory.path / ".removed-1").exists()


def test_a_removal_waits_for_a_publisher(directory: ModelDirectory) -> None:
    removal = threading.Thread(target=remove_old_versions, args=(directory, 1, ()))
    with directory.locked():
        removal.start()
        time.sleep(0.2)
        assert directory.versions() == [1, 2, 3, 4, 5]
    removal.join()
    assert directory.versions() == [5]


def test_a_read_only_directory_is_a_storage_error(read_only_directory: Path) -> None:
    directory = ModelDirectory(read_only_directory.parent, read_only_directory.name)
    with pytest.raises(StorageError, match=f"{read_only_directory}.*Permission denied"):
        remove_old_versions(directory, 1, ())


CONFIG = """
# two models
model_config_list {
  config {
    name: "clothing"
    base_path: "/models/clothing"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 7 versions: 9 } }
    version_labels { key: "stable" value: 7 }
    version_labels { key: "canary" value: 8 }
  }
  config {
    name: "plain"
    base_path: "/models/plain"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 2 } }
  }
}
"""


@pytest.mark.parametrize(
    ("name", "versions"), [("clothing", {7, 8, 9}), ("plain", set()), ("unknown", set())]
)
def test_labels_and_the_version_policy_protect_versions(
    tmp_path: Path, name: str, versions: set[int]
) -> None:
    path = tmp_path / "models.config"
    path.write_text(CONFIG)
    assert protected_versions(path, name) == versions


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param(b"model_config_list {\n  config {\n    nome: 'x'\n", "nome", id="mistyped field"),
        pytest.param(b"\x08\x96\x01\xff", "invalid start byte", id="not text"),
    ],
)
def test_refuses_a_file_that_is_not_a_model_config(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "models.config"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--model-config .*models.config: .*{reason}") as caught:
        protected_versions(path, "clothing")
    assert "\n" not in str(caught.value)
