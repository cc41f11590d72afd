import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import ConfigError, StorageError
from trainer.training.features import cache
from trainer.training.features.cache import FeatureCache, FeatureExamples

CONTENT = {"backbone": "vgg16", "weights": "abc", "output": "pooled"}


def opened(directory: Path, dtype: str = "float32", **changes: str) -> FeatureCache:
    return FeatureCache(directory, {**CONTENT, **changes}, (2, 3), dtype)


def rows(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32)[:, None, None] * np.ones((2, 3), np.float32)


def filled(directory: Path, dtype: str = "float32") -> FeatureCache:
    """Two shards, a to c and d to e; the row of a key is its place in the alphabet."""
    cache = opened(directory, dtype)
    cache.add(["a", "b", "c"], rows(3))
    cache.add(["d", "e"], rows(2, 3))
    cache.refresh()
    return cache


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_come_back_in_any_order_in_a_later_run(tmp_path: Path, dtype: str) -> None:
    filled(tmp_path, dtype)
    cache = opened(tmp_path, dtype)
    found = cache.rows(["e", "a", "d", "a"])
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, rows(5)[[4, 0, 3, 0]])
    assert not cache.has("f")


def test_rows_that_are_many_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 10)
    stored = filled(tmp_path).rows(list("abcde"))
    assert isinstance(stored, cache.StoredRows)
    assert all(isinstance(shard, np.memmap) for shard in stored.shards)
    np.testing.assert_array_equal(stored[np.array([4, 1, 1, 0])], rows(5)[[4, 1, 1, 0]])
    examples = FeatureExamples(stored, np.arange(5, dtype=np.int32))
    ((features, labels),) = examples.batches(np.array([3, 0]), 8)
    np.testing.assert_array_equal(features[:, 0, 0], labels)


@pytest.mark.parametrize(
    "changes", [{"backbone": "xception"}, {"weights": "other"}, {"output": "block4"}, {"dtype": "float16"}]
)
def test_what_decides_the_content_decides_the_place(tmp_path: Path, changes: dict[str, str]) -> None:
    filled(tmp_path)
    other = opened(tmp_path, **{"dtype": "float32", **changes})
    assert not other.has("a")
    text = json.loads((other.directory / "content.json").read_text())
    assert changes.items() <= text.items()


def damage_rows(cache: FeatureCache) -> None:
    path = sorted(cache.directory.glob("*.npy"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the size stays
    path.write_bytes(data)


def cut_rows(cache: FeatureCache) -> None:
    path = sorted(cache.directory.glob("*.npy"))[0]
    path.write_bytes(path.read_bytes()[:-10])


def empty_rows(cache: FeatureCache) -> None:
    sorted(cache.directory.glob("*.npy"))[0].write_bytes(b"")


def lose_rows(cache: FeatureCache) -> None:
    sorted(cache.directory.glob("*.npy"))[0].unlink()


def cut_index(cache: FeatureCache) -> None:
    index = sorted(path for path in cache.directory.glob("*.json") if path.stem != "content")[0]
    index.write_text(index.read_text()[:20])


@pytest.mark.parametrize("damage", [damage_rows, cut_rows, empty_rows, lose_rows, cut_index])
def test_a_damaged_shard_is_not_believed(
    tmp_path: Path, damage: Callable[[FeatureCache], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(filled(tmp_path))
    cache = opened(tmp_path)
    kept = [key for key in "abcde" if cache.has(key)]
    assert kept in (["a", "b", "c"], ["d", "e"])
    assert "damaged" in caplog.text
    gone = [key for key in "abcde" if key not in kept]
    cache.add(gone, rows(5)[["abcde".index(key) for key in gone]])
    np.testing.assert_array_equal(opened(tmp_path).rows(list("abcde")), rows(5))


def test_rows_without_an_index_do_not_exist(tmp_path: Path) -> None:
    """What a process leaves that is killed between the two files of a shard."""
    cache = filled(tmp_path)
    for index in cache.directory.glob("*.json"):
        if index.stem != "content":
            index.unlink()
    assert not opened(tmp_path).has("a")


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--cache-dtype.*70000"):
        opened(tmp_path, "float16").add(["a"], np.full((1, 2, 3), 70000, np.float32))


def test_a_cache_that_others_do_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"1 of 2.*--cache-dir"):
        filled(tmp_path).rows(["a", "z"])


def test_a_read_only_place_is_refused(read_only_directory: Path) -> None:
    with pytest.raises(StorageError, match="Permission denied"):
        opened(read_only_directory / "cache")
