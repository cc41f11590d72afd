"""The feature cache: the frozen layers' output for each image, on disk, computed once for all runs.

CACHE_DIR/KEY/content.json     everything that decides a row except the image; KEY is its hash
CACHE_DIR/KEY/SHARD.npy        rows of activations, (rows, *shape)
CACHE_DIR/KEY/SHARD.json       the images of these rows, and a checksum; a shard counts only with this file,
                               which is written last

A row's key is a hash of its image's bytes. Files may be renamed and moved between splits, and later runs, of
other models too, still find their rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import AUGMENTATION, ImageExamples
from trainer.errors import ConfigError, StorageError
from trainer.runtime import storage

_log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 2**30
"""A split's activations up to this size are read into memory; larger ones stay mapped to their files."""


@dataclasses.dataclass(frozen=True)
class _Row:
    shard: str
    index: int


class FeatureCache:
    """The stored rows of one output of the frozen layers."""

    def __init__(self, cache_dir: Path, content: Mapping[str, Any], shape: Sequence[int], dtype: str) -> None:
        """Open or create the cache.

        Args:
          content: everything that decides a row's numbers, except the image's bytes and the view.
          shape: of one row.
          dtype: "float16" or "float32".
        Raises:
          StorageError: the directory cannot be created or read.
        """
        content = {**content, "shape": list(shape), "dtype": dtype, "format": 1}
        text = json.dumps(content, indent=2, sort_keys=True)
        self.directory = cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._rows: dict[str, _Row] = {}
        self._shards: dict[str, np.ndarray] = {}
        with storage.explain_errors("The feature cache cannot be used", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            storage.remove_partial(self.directory, older_than_s=3600)  # others may be writing newer
            if not (self.directory / "content.json").exists():
                storage.write_atomically(self.directory / "content.json", text)
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def refresh(self) -> None:
        """Load the shards that this or another process has completed since."""
        with storage.explain_errors("The feature cache cannot be read", self.directory):
            names = sorted(path.stem for path in self.directory.glob("*.json") if path.stem != "content")
            new = [name for name in names if name not in self._shards]
            with ThreadPoolExecutor() as pool:
                opened = list(pool.map(self._open, new))
        for name, shard in zip(new, opened, strict=True):
            if shard is None:
                continue
            keys, self._shards[name] = shard
            self._rows.update({key: _Row(name, index) for index, key in enumerate(keys)})

    def _open(self, name: str) -> tuple[list[str], np.ndarray] | None:
        """Map one shard to memory; remove it if it is damaged, so that its rows are computed again."""
        try:
            index = json.loads((self.directory / f"{name}.json").read_text(encoding="utf-8"))
            rows = np.load(self.directory / f"{name}.npy", mmap_mode="r")
            keys: list[str] = index["keys"]
            whole = rows.shape == (len(keys), *self.shape) and rows.dtype == self.dtype
            if whole and zlib.crc32(np.ascontiguousarray(rows).data) == index["crc32"]:
                return keys, rows
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, EOFError):  # not JSON, not an array, or cut off
            pass
        _log.warning("feature cache: shard %s in %s is damaged and is computed again", name, self.directory)
        for suffix in ("json", "npy"):
            (self.directory / f"{name}.{suffix}").unlink(missing_ok=True)
        return None

    def has(self, key: str) -> bool:
        """Return whether the row is stored."""
        return key in self._rows

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Store one shard atomically.

        Args:
          rows: float32 (len(keys), *shape).
        Raises:
          StorageError: the volume is full or read-only.
          ConfigError: float16 cannot hold these numbers.
        """
        with np.errstate(over="ignore"):  # the next line checks for it
            stored = rows.astype(self.dtype)
        if not np.isfinite(stored).all() and np.isfinite(rows).all():
            raise ConfigError(
                f"--cache-dtype float16 holds numbers up to 65504. Received: activations up to "
                f"{np.abs(rows).max():.0f}. Use --cache-dtype float32."
            )
        name = secrets.token_hex(8)  # other processes may be writing at the same time
        index = json.dumps({"keys": list(keys), "crc32": zlib.crc32(np.ascontiguousarray(stored).data)})
        with storage.explain_errors("The feature cache cannot take a shard", self.directory):
            array = io.BytesIO()  # NumPy hides why it cannot write to a file
            np.save(array, stored, allow_pickle=False)
            storage.write_atomically(
                self.directory / f"{name}.npy", lambda file: file.write(array.getbuffer())
            )
            storage.write_atomically(self.directory / f"{name}.json", index)

    def rows(self, keys: Sequence[str]) -> np.ndarray | StoredRows:
        """Return the rows of these keys in their order, in memory if they are small.

        Raises:
          StorageError: rows are missing, because another worker stores to another directory.
        """
        missing = sum(key not in self._rows for key in keys)
        if missing:
            raise StorageError(
                f"The feature cache {self.directory} must hold the rows of every worker. Received: "
                f"{missing} of {len(keys)} rows are missing. Check that all workers see the same --cache-dir."
            )
        places = [self._rows[key] for key in keys]
        names, shard = np.unique([place.shard for place in places], return_inverse=True)
        stored = StoredRows(
            [self._shards[name] for name in names], shard, np.array([place.index for place in places])
        )
        if len(keys) * self.row_bytes > IN_MEMORY_BYTES:
            return stored
        return stored[np.arange(len(keys))]


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Rows that are spread over several arrays.

    Attributes:
      shards: arrays of one dtype and row shape, in memory or mapped to files.
      shard: for each row, the number of its array.
      index: for each row, its place in that array.
    """

    shards: Sequence[np.ndarray]
    shard: np.ndarray
    index: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the rows with these numbers, in this order."""
        shard, index = self.shard[rows], self.index[rows]
        gathered = np.empty((len(rows), *self.shards[0].shape[1:]), self.shards[0].dtype)
        for number in np.unique(shard):
            here = shard == number
            gathered[here] = self.shards[number][index[here]]
        return gathered


@dataclasses.dataclass(frozen=True)
class FeatureExamples:
    """The stored activations of one split, in the order of its `ImageExamples`.

    Attributes:
      features: float16 or float32 (views × count, …), an array or `StoredRows`.
      labels: int32 (count,), one per image.
      views: number of examples of each image.
    """

    features: np.ndarray | StoredRows
    labels: np.ndarray
    views: int = 1

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches (features (N, …), int32 (N,)) in the given order; the last may be smaller."""
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield self.features[rows], self.labels[rows % len(self.labels)]


def example_keys(examples: ImageExamples) -> list[str]:
    """Return the key of each example: a hash of the image's bytes and, for a copy, of its augmentation."""
    augmented = json.dumps([AUGMENTATION, examples.seed])
    suffix = hashlib.sha256(augmented.encode()).hexdigest()[:8]
    digests = examples.images.digests
    copies = [f"{digest}-{suffix}-{view}" for view in range(1, examples.views) for digest in digests]
    return [*digests, *copies]
