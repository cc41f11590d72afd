"""Where a run computes: the tf.distribute strategy, this process's part in it, and a forward pass over it."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.errors import ConfigError, DeviceError, WorkerLostError
from trainer.training import workers
from trainer.training.workers import WorkerCluster

Rows: TypeAlias = "np.ndarray | tf.Tensor"
"""Examples along the first axis."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The replicas of one run: those of this process, and how they stand among those of all workers.

    Attributes:
      strategy: MirroredStrategy, or MultiWorkerMirroredStrategy.
      worker: this process, from 0 to `workers` - 1; worker 0 is the chief, the only one that publishes.
      workers: processes that train together.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """How many parts a global batch has, over all workers."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def local_replicas(self) -> int:
        """How many of them are in this process."""
        return self.replicas // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.worker == 0

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this worker's part of a global batch: all parts together are the batch, in order."""
        first = self.worker * self.local_replicas
        start, _ = _part(len(rows), first, self.replicas)
        _, stop = _part(len(rows), first + self.local_replicas - 1, self.replicas)
        return rows[start:stop]

    def deal(self, rows: Rows) -> tf.distribute.DistributedValues | tf.Tensor:
        """Deal this worker's part to its replicas: equal parts in order, the first ones a row more.

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
        """Return the sum over all workers, each giving an array of the same shape; float64."""
        values = np.asarray(values, np.float64)
        if self.workers == 1:
            return values

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            first = context.replica_id_in_sync_group % self.local_replicas == 0
            return tf.constant(values if first else np.zeros_like(values))

        parts = self.strategy.experimental_distribute_values_from_function(part)
        return np.array(self.strategy.reduce("SUM", parts, axis=None))

    def from_chief(self, text: str) -> str:
        """Return the chief's text, at most 256 bytes of it, on all workers."""
        buffer = np.zeros(256)
        if self.is_chief:
            encoded = np.frombuffer(text.encode()[:256], np.uint8)
            buffer[: len(encoded)] = encoded
        return bytes(self.sum(buffer).astype(np.uint8)).rstrip(b"\0").decode()

    def wait_for_all(self, state: str = "") -> None:
        """Return when every worker has come here.

        Args:
          state: where this worker stands; shared storage may have shown it an old file.
        Raises:
          WorkerLostError: another worker stands somewhere else.
        """
        number = zlib.crc32(state.encode())
        of_chief = int(self.sum(np.array(number if self.is_chief else 0)))
        if number != of_chief:
            raise WorkerLostError(
                f"All workers must stand at the same step. Received: worker {self.worker} at {state}, and "
                "the chief elsewhere. Check that all see the same --model-dir; all of them start again."
            )


def _part(count: int, index: int, parts: int) -> tuple[int, int]:
    """Return where part `index` of `count` rows starts and stops; the first parts have a row more."""
    each, remainder = divmod(count, parts)
    start = index * each + min(index, remainder)
    return start, start + each + (index < remainder)


def connect_devices(config: TrainConfig, environment: Mapping[str, str]) -> Devices:
    """Return the devices that `--distribution` asks for.

    Args:
      environment: the process's environment variables, of which a multi-worker run is told
        (`workers.find`).
    Raises:
      ConfigError: multi-worker is asked for, and the environment names no workers.
      DeviceError: there are fewer devices than asked for.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    cluster = workers.find_workers(environment) if config.distribution in ("auto", "multi-worker") else None
    if cluster and len(cluster.addresses) > 1:
        return _multi_worker(cluster, config)
    if config.distribution == "multi-worker" and not cluster:
        raise ConfigError(
            "--distribution multi-worker needs TF_CONFIG, or JOB_COMPLETION_INDEX, WORKERS and "
            "WORKER_SERVICE, in the environment. Received: none of them. Set them as "
            "docs/operations.md shows, or use --distribution mirrored."
        )
    return mirrored_devices(config.cpu_replicas, only_one=config.distribution == "one")


def mirrored_devices(cpu_replicas: int | None = None, *, only_one: bool = False) -> Devices:
    """Return every visible GPU of this machine, or N logical CPU devices (None: one, if there is no GPU)."""
    gpus = tf.config.list_physical_devices("GPU") if cpu_replicas is None else []
    if gpus:
        count = 1 if only_one else len(gpus)
        return Devices(tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(count)]))
    replicas = 1 if only_one else cpu_replicas or 1
    configure_logical_cpus(replicas)
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(replicas)],
        # Collective operations on CPUs cannot be used by a second strategy in one process: the runtime
        # remembers the keys of the first, and fails with "Shape mismatch in the collective instance".
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    return Devices(strategy)


def configure_logical_cpus(count: int) -> None:
    """Have TensorFlow see the CPU as that many devices, before it has run anything.

    Raises:
      DeviceError: it runs already, with fewer.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = len(tf.config.get_logical_device_configuration(cpu) or [cpu])
    if configured >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:  # devices are fixed once TensorFlow has run anything
        raise DeviceError(
            f"--cpu-replicas {count}: TensorFlow is running already with {configured} logical CPU "
            "device(s). Ask for them before anything else uses TensorFlow."
        ) from error


def _multi_worker(cluster: WorkerCluster, config: TrainConfig) -> Devices:
    if config.cpu_replicas is not None:
        raise ConfigError(
            "--cpu-replicas is for one process: in a multi-worker run each worker uses its GPUs, or its CPU "
            f"as one replica. Received: --cpu-replicas {config.cpu_replicas}. Leave it out."
        )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.worker,
        rpc_layer="grpc",
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    return Devices(strategy, cluster.worker, len(cluster.addresses))


@contextmanager
def name_lost_worker(devices: Devices) -> Iterator[None]:
    """Turn what TensorFlow raises when a worker is gone into a WorkerLostError."""
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.InternalError,
        tf.errors.DeadlineExceededError,
        tf.errors.CancelledError,
    ) as error:
        if devices.workers == 1:
            raise
        reason = " ".join(error.message.split())[:200]
        raise WorkerLostError(
            f"Worker {devices.worker} of {devices.workers} has lost another one ({reason}). All of "
            "them start again, and go on from the last saved state."
        ) from error


class Forward:
    """A model in inference mode over this worker's replicas; traced once, however often it is called.

    Nothing is exchanged with other workers.
    """

    def __init__(self, model: keras.Model, devices: Devices, *, xla: bool = False) -> None:
        """Set up.

        Args:
          xla: compile with XLA.
        """
        self.model = model
        self._devices = devices
        (input_tensor,) = model.inputs
        spec = tf.TensorSpec(input_tensor.shape, input_tensor.dtype)

        # One trace for every batch size: tracing a large network takes seconds.
        @tf.function(input_signature=[spec], jit_compile=xla, autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def on_replica(inputs: tf.Tensor) -> list[tf.Tensor]:
            return [tf.cast(one, tf.float32) for one in tf.nest.flatten(model(inputs, training=False))]

        self._on_replicas = tf.function(
            lambda inputs: devices.strategy.run(
                lambda part: on_replica(tf.cast(part, spec.dtype)), args=(inputs,)
            ),
            reduce_retracing=True,
            autograph=False,
        )

    def stream(self, batches: Iterable[Rows]) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield each batch's outputs, float32, one array for each output of the model."""
        for inputs in batches:
            outputs = self._on_replicas(self._devices.deal(inputs))
            yield tuple(
                np.concatenate(
                    [part.numpy() for part in self._devices.strategy.experimental_local_results(output)]
                )
                for output in outputs
            )
