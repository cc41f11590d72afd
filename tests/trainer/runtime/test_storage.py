from __future__ import annotations

import subprocess
import sys
import time
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
        pytest.raises(StorageError) as caught,
        storage.explain_errors("The checkpoint cannot be saved", path),
    ):
        storage.write_atomically(path, fail)
    for part in ("The checkpoint cannot be saved", str(path), "No space left on device"):
        assert part in str(caught.value)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    storage.write_atomically(path, "new")
    assert path.read_text() == "new"


@pytest.fixture
def partial_file(tmp_path: Path) -> Path:
    """What a writer of `a` with the token `t` leaves when it is killed."""
    code = """
import os, pathlib, sys
from trainer.runtime import storage
storage.write_atomically(pathlib.Path(sys.argv[1]), lambda file: os._exit(9), token="t")
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a"]).returncode == 9
    (left,) = tmp_path.iterdir()
    return left


def test_a_second_try_with_the_same_token_overwrites_what_a_killed_process_left(
    tmp_path: Path, partial_file: Path
) -> None:
    storage.write_atomically(tmp_path / "a", "whole", token="t")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_partial_files_are_removed_by_age(tmp_path: Path, partial_file: Path) -> None:
    storage.remove_partial(tmp_path, older_than_s=3600)
    assert partial_file.exists()
    storage.remove_partial(tmp_path, older_than_s=0)
    assert not partial_file.exists()


_HOLD = """
import pathlib, sys
from trainer.runtime import storage
with storage.locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    input()
"""


class Holder:
    """Another process that holds a lock."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def release(self) -> None:
        self.process.communicate(b"\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_lock_keeps_other_processes_out_until_its_holder_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".lock" if kind == "file" else tmp_path
    for end in (Holder.release, Holder.kill):
        holder = Holder(path)
        with pytest.raises(BlockingIOError), storage.locked(path, wait=False):
            pass
        end(holder)
        with storage.locked(path, wait=False):
            pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = Holder(path)
    waiting = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    time.sleep(0.3)
    assert waiting.poll() is None
    holder.release()
    assert waiting.communicate(b"\n", timeout=30)[0] == b"locked\n"


def test_a_lock_leaves_the_content_of_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("7")
    with storage.locked(path):
        pass
    assert path.read_text() == "7"


def test_a_lock_ends_with_its_block_also_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), storage.locked(tmp_path):
        raise KeyError
    with storage.locked(tmp_path, wait=False):
        pass


def test_space_is_checked_before_it_is_used(tmp_path: Path) -> None:
    storage.check_space(tmp_path, 1, "a byte")
    with pytest.raises(StorageError) as caught:
        storage.check_space(tmp_path, 10**15, "the cache")
    for part in ("the cache", "1000000.0 GB", str(tmp_path)):
        assert part in str(caught.value)
