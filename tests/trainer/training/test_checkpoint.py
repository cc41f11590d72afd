import logging
from pathlib import Path

import numpy as np
import pytest

from trainer.training.checkpoint import Checkpoint

CHECKPOINT = Checkpoint(
    position={"phase": "head", "epoch": 3, "sums": [0.1, 2.0]},
    variables=[np.arange(4, dtype=np.float32), np.array([7, 8], np.uint32)],
    optimizer=[np.array(3), np.array([0.25], np.float32)],
    best=[np.zeros((2, 2), np.float32)],
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    CHECKPOINT.save(tmp_path / "c.npz")
    read = Checkpoint.load(tmp_path / "c.npz")
    assert read is not None
    assert read.position == CHECKPOINT.position
    for group in ("variables", "optimizer", "best"):
        for left, right in zip(getattr(CHECKPOINT, group), getattr(read, group), strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert Checkpoint.load(tmp_path / "c.npz") is None


@pytest.mark.parametrize("keep", [0, 10, 300, -1, -30])
def test_half_a_file_is_not_believed(tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.npz"
    CHECKPOINT.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        assert Checkpoint.load(path) is None
    assert "cannot be read" in caplog.text


def test_a_flipped_bit_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    CHECKPOINT.save(path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(3).tobytes())] ^= 1
    path.write_bytes(data)
    assert Checkpoint.load(path) is None
