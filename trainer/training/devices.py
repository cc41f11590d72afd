"""The replicas of a run: how a global batch is split across workers and replicas, and what they exchange."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from trainer.errors import WorkerLostError

Rows: TypeAlias = "np.ndarray | tf.Tensor"
"""Examples along the first axis."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The replicas of one run: those of this process, and their place among those of all workers.

    Attributes:
      strategy: MirroredStrategy, or MultiWorkerMirroredStrategy.
      worker: index of this process, from 0 to `workers` - 1; worker 0 is the chief, which alone publishes.
      workers: number of processes that train together.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """Number of replicas over all workers: the parts of a global batch."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def local_replicas(self) -> int:
        """Number of replicas in this process."""
        return self.replicas // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.worker == 0

    def worker_shard(self, rows: np.ndarray) -> np.ndarray:
        """Return this worker's shard of a global batch; all shards together are the batch, in order."""
        first = self.worker * self.local_replicas
        start, _ = _part(len(rows), first, self.replicas)
        _, stop = _part(len(rows), first + self.local_replicas - 1, self.replicas)
        return rows[start:stop]

    def split_across_replicas(self, rows: Rows) -> tf.distribute.DistributedValues | tf.Tensor:
        """Split this worker's shard into one part per replica, in order; the first parts may have a row more.

        `experimental_distribute_dataset` takes 0.1 s to set up for each pass, longer than an epoch on
        stored features; this takes less than 0.1 ms a batch. A replica may get no row of a last batch.
        """

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            replica = context.replica_id_in_sync_group % self.local_replicas
            start, stop = _part(len(rows), replica, self.local_replicas)
            return tf.convert_to_tensor(rows[start:stop])

        if self.local_replicas == 1:
            return tf.convert_to_tensor(rows)  # the same, sooner
        return self.strategy.experimental_distribute_values_from_function(part)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all workers, each of which passes an array of the same shape; float64."""
        values = np.asarray(values, np.float64)
        if self.workers == 1:
            return values

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            first = context.replica_id_in_sync_group % self.local_replicas == 0
            return tf.constant(values if first else np.zeros_like(values))

        parts = self.strategy.experimental_distribute_values_from_function(part)
        return np.array(self.strategy.reduce("SUM", parts, axis=None))

    def broadcast_from_chief(self, text: str) -> str:
        """Return on all workers the chief's text, cut to 256 bytes; each waits for the others."""
        buffer = np.zeros(256)
        if self.is_chief:
            encoded = np.frombuffer(text.encode()[:256], np.uint8)
            buffer[: len(encoded)] = encoded
        return bytes(self.sum(buffer).astype(np.uint8)).rstrip(b"\0").decode(errors="ignore")

    def chief_text(self, make: Callable[[], str], *, is_last: bool = False) -> str:
        """Return on all workers the text that the chief makes; each waits for the others.

        Args:
          is_last: the workers need each other no more after this, so the chief ignores that one is lost.
        """
        if not self.is_chief:
            return self.broadcast_from_chief("")
        text = make()
        with contextlib.suppress(*([tf.errors.OpError] if is_last else [])):
            self.broadcast_from_chief(text)
        return text

    def wait_for_all(self, state: str = "") -> None:
        """Return when every worker has reached this call.

        Args:
          state: where this worker stands; shared storage may have shown it an old file.
        Raises:
          WorkerLostError: another worker stands somewhere else.
        """
        number = zlib.crc32(state.encode())
        chiefs_number = int(self.sum(np.array(number if self.is_chief else 0)))
        if number != chiefs_number:
            raise WorkerLostError(
                f"All workers must be at the same step. Received: worker {self.worker} at {state}, and the "
                "chief elsewhere. All workers restart now. If this happens again, check that all of them see "
                "the same --model-dir."
            )


def _part(count: int, index: int, parts: int) -> tuple[int, int]:
    """Return where part `index` of `count` rows starts and stops; the first parts have a row more."""
    size, remainder = divmod(count, parts)
    start = index * size + min(index, remainder)
    return start, start + size + (index < remainder)
