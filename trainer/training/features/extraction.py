"""Run the frozen layers once over each image that the feature cache does not have yet."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.data import ImageExamples
from trainer.runtime import progress, storage
from trainer.runtime.stopping import Stop
from trainer.training.devices import Devices
from trainer.training.features.cache import FeatureCache, FeatureExamples, example_keys
from trainer.training.forward import Forward

_PROBED_SIZES = (8, 16, 32, 64)
_PROBED_IMAGES = 64
_WORTH_PROBING = 8 * len(_PROBED_SIZES) * _PROBED_IMAGES
_UNPROBED_SIZE = 16

_SHARD_BYTES = 64 * 2**20
_SHARD_ROWS = 512
_SHARD_SECONDS = 30
"""A shard is written at this many bytes or rows, or at this age: the most that a crash loses."""


def weights_fingerprint(network: keras.Model) -> str:
    """Return SHA-256 (hex) over the network's variables, whichever file they were loaded from."""
    total = hashlib.sha256()
    for variable in network.weights:
        total.update(np.ascontiguousarray(variable.numpy()).data)
    return total.hexdigest()


class Extraction:
    """Runs the frozen network, at the batch size that is fastest.

    Attributes:
      images: number of images and copies that went through it on this worker.
    """

    def __init__(
        self, make_forward: Callable[[], Forward], devices: Devices, batch_size: int | None, stop: Stop
    ) -> None:
        """Set up the extraction.

        Args:
          make_forward: builds the network's forward pass; called if there is anything to compute.
          batch_size: images per step on this worker; None: a probe on the first images finds the fastest.
        """
        self._make_forward = make_forward
        self._devices = devices
        self._batch_size = batch_size
        self._stop = stop
        self.images = 0

    def store(
        self, examples: ImageExamples, caches: Sequence[FeatureCache], description: str
    ) -> list[FeatureExamples]:
        """Compute the rows that are missing, each worker its shard, and return all rows of the split.

        Args:
          caches: one for each output of the network.
          description: what the progress bar calls the split.
        Returns:
          For each cache, the split's examples.
        Raises:
          StorageError: a cache's volume is full, or is not the same for all workers.
          StoppedError: SIGTERM came; complete rows are stored.
          tf.errors.InvalidArgumentError: a worker has read an image that cannot be decoded; all raise it.
        """
        keys = example_keys(examples)
        wanted = _missing(keys, caches)
        for cache in caches:
            storage.check_space(cache.directory, len(wanted) * cache.row_bytes, "The feature cache")
        # Every worker has looked before any of them stores a row, so that all shard the same images.
        self._devices.wait_for_all(f"{len(wanted)} images to compute")
        mine = self._devices.worker_shard(wanted)
        undecodable: tf.errors.InvalidArgumentError | None = None
        with progress.bar(f"frozen layers, {description}", len(mine)) as advance:
            try:
                self._compute(examples, keys, mine, caches, advance)
            except tf.errors.InvalidArgumentError as error:
                undecodable = error
        # All workers wait for each other here, and then all of them look for the image.
        if self._devices.sum(np.array(undecodable is not None)):
            raise undecodable or tf.errors.InvalidArgumentError(
                None, None, "another worker has read an image that cannot be decoded"
            )
        for cache in caches:
            cache.refresh()
        return [FeatureExamples(cache.rows(keys), examples.labels, examples.views) for cache in caches]

    @functools.cached_property
    def _forward(self) -> Forward:
        return self._make_forward()

    def _compute(
        self,
        examples: ImageExamples,
        keys: Sequence[str],
        mine: np.ndarray,
        caches: Sequence[FeatureCache],
        advance: Callable[[int], None],
    ) -> None:
        shard = _Shard(caches)
        try:
            for part, batch_size in self._parts(mine):
                batches = examples.batches(part, batch_size, is_first_read=True)
                images = (images for images, _ in batches)
                done = 0
                for outputs in self._forward.stream(images):
                    count = len(outputs[0])
                    shard.append([keys[example] for example in part[done : done + count]], outputs)
                    done += count
                    self.images += count
                    advance(count)
                    self._stop.check()
        finally:
            shard.write()

    def _parts(self, mine: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Yield examples with a batch size; the first parts also measure which size is fastest."""
        if self._batch_size is None and len(mine) >= _WORTH_PROBING:
            yield mine[:8], 8  # traces the network
            mine = mine[8:]
            seconds = {}
            for size in _PROBED_SIZES:
                started = time.monotonic()
                yield mine[:_PROBED_IMAGES], size
                seconds[size] = time.monotonic() - started
                mine = mine[_PROBED_IMAGES:]
            self._batch_size = min(seconds, key=seconds.__getitem__)
        if len(mine):
            yield mine, self._batch_size or _UNPROBED_SIZE


def _missing(keys: Sequence[str], caches: Sequence[FeatureCache]) -> np.ndarray:
    """Return the first example of each key that a cache lacks, int (M,)."""
    first_with_key: dict[str, int] = {}
    for example, key in enumerate(keys):
        if not all(cache.has(key) for cache in caches):
            first_with_key.setdefault(key, example)
    return np.array(list(first_with_key.values()), int)


class _Shard:
    """Rows that are not stored yet."""

    def __init__(self, caches: Sequence[FeatureCache]) -> None:
        self._caches = caches
        self._most_rows = max(1, min(_SHARD_ROWS, _SHARD_BYTES // sum(cache.row_bytes for cache in caches)))
        self._clear()

    def _clear(self) -> None:
        self._keys: list[str] = []
        self._outputs: list[Sequence[np.ndarray]] = []
        self._since = time.monotonic()

    def append(self, keys: Sequence[str], outputs: Sequence[np.ndarray]) -> None:
        self._keys += keys
        self._outputs.append(outputs)
        if len(self._keys) >= self._most_rows or time.monotonic() - self._since > _SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        keys, outputs = self._keys, self._outputs
        self._clear()
        if keys:
            for cache, rows in zip(self._caches, zip(*outputs, strict=True), strict=True):
                cache.add(keys, np.concatenate(rows))
