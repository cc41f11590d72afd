import fcntl
from pathlib import Path

import pytest

from trainer.errors import StorageError
from trainer.runtime import volumes


def test_a_local_disk_replaces_and_locks_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    volumes.check_writable(tmp_path / "new" / "one")
    volumes.check_renames_folders(tmp_path / "new" / "one")
    volumes.check_replaces_and_locks(tmp_path / "new" / "one")
    assert not list((tmp_path / "new" / "one").iterdir())


def test_a_directory_that_may_not_be_written_is_refused(read_only_directory: Path) -> None:
    for check in (
        volumes.check_writable,
        volumes.check_renames_folders,
        volumes.check_replaces_and_locks,
    ):
        with pytest.raises(StorageError) as caught:
            check(read_only_directory)
        assert f"{read_only_directory}: Permission denied" in str(caught.value)


def test_an_error_begins_and_ends_as_the_caller_says(read_only_directory: Path) -> None:
    with pytest.raises(StorageError) as caught:
        volumes.check_writable(read_only_directory / "new", "No report", "Name another.")
    assert str(caught.value) == f"No report: {read_only_directory}/new: Permission denied. Name another."


def test_a_folder_that_cannot_be_renamed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="Operation not supported"):
        volumes.check_renames_folders(tmp_path)
    assert not list(tmp_path.iterdir())


def test_locks_that_are_granted_to_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on mounts that answer every lock with success: this process's lock is never really taken."""
    monkeypatch.setattr(fcntl, "flock", lambda file, flags: None)
    with pytest.raises(StorageError, match=str(tmp_path)):
        volumes.check_replaces_and_locks(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, flags: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=f"{tmp_path}: Operation not supported"):
        volumes.check_replaces_and_locks(tmp_path)


def test_a_rename_that_does_not_replace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename_unless_there(self: Path, target: Path) -> None:
        if not target.exists():
            self.rename(target)

    monkeypatch.setattr(Path, "replace", rename_unless_there)
    with pytest.raises(StorageError, match=str(tmp_path)):
        volumes.check_replaces_and_locks(tmp_path)


def test_free_space_is_told_also_where_the_directory_will_be(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "yet"
    assert volumes.check_space(directory, 1, "the cache").endswith(f" GB free in {directory}")
    with pytest.raises(StorageError, match=r"the cache.* 1000000\.0 GB"):
        volumes.check_space(directory, 10**15, "the cache")
