import fcntl
from pathlib import Path

import pytest

from trainer.errors import StorageError
from trainer.runtime import volumes


def test_a_local_disk_replaces_and_locks_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    volumes.check_writable(tmp_path / "new" / "one")
    volumes.check_replaces_and_locks(tmp_path / "new" / "one")
    assert not list((tmp_path / "new" / "one").iterdir())


def test_a_directory_that_may_not_be_written_is_refused(read_only_directory: Path) -> None:
    for check in (volumes.check_writable, volumes.check_replaces_and_locks):
        with pytest.raises(StorageError, match="The directory must be .*: Permission denied"):
            check(read_only_directory)


def test_locks_that_are_granted_to_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on mounts that answer every lock with success: this process's lock is never really taken."""
    monkeypatch.setattr(fcntl, "flock", lambda file, flags: None)
    with pytest.raises(StorageError, match="locks must keep other processes out"):
        volumes.check_replaces_and_locks(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, flags: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="replace and lock files: .*: Operation not supported"):
        volumes.check_replaces_and_locks(tmp_path)


def test_a_rename_that_does_not_replace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename_unless_there(self: Path, target: Path) -> None:
        if not target.exists():
            self.rename(target)

    monkeypatch.setattr(Path, "replace", rename_unless_there)
    with pytest.raises(StorageError, match="a rename must replace a file"):
        volumes.check_replaces_and_locks(tmp_path)


def test_free_space_is_told_also_where_the_directory_will_be(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "yet"
    assert volumes.check_space(directory, 1, "the cache").endswith(f" GB free in {directory}")
    with pytest.raises(StorageError, match="the cache needs 1000000.0 GB"):
        volumes.check_space(directory, 10**15, "the cache")
