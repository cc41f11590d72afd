from pathlib import Path
from typing import BinaryIO

import pytest

from trainer.errors import StorageError
from trainer.runtime import storage


def test_write_atomically_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    for text in ("old", "new"):
        storage.write_atomically(path, text)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "checkpoint.npz"
    storage.write_atomically(path, "good")
    with (
        pytest.raises(StorageError, match=r"cannot be saved: .*: No space left on device"),
        storage.explain_errors("The checkpoint cannot be saved", path),
    ):
        storage.write_atomically(path, fail)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_space_is_checked_before_it_is_used(tmp_path: Path) -> None:
    storage.check_space(tmp_path, 1, "a byte")
    with pytest.raises(StorageError, match=r"the cache needs 1000000\.0 GB .* Received: .* GB free"):
        storage.check_space(tmp_path, 10**15, "the cache")
