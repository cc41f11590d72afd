"""Connect a run to its devices: the GPUs of this machine, several machines, or logical CPU devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import tensorflow as tf

from trainer.config import DistributionName
from trainer.errors import ConfigError, DeviceError, WorkerLostError
from trainer.training.devices import Devices
from trainer.training.workers import WorkerCluster, find_workers


def connect_devices(
    distribution: DistributionName,
    environment: Mapping[str, str],
    *,
    cpu_replicas: int | None = None,
    deterministic: bool = False,
) -> Devices:
    """Return the devices that `--distribution` asks for.

    Args:
      environment: the process's environment variables, which describe a multi-worker run (`find_workers`).
      cpu_replicas: use that many logical CPU devices instead of GPUs.
      deterministic: have TensorFlow use only operations that give the same bits in every run.
    Raises:
      ConfigError: multi-worker is asked for and the environment names no workers, or together with
        `cpu_replicas`.
      DeviceError: fewer devices are available than asked for.
    """
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    cluster = find_workers(environment) if distribution in ("auto", "multi-worker") else None
    if cluster and len(cluster.addresses) > 1:
        return _multi_worker_devices(cluster, cpu_replicas)
    if distribution == "multi-worker" and not cluster:
        raise ConfigError(
            "--distribution multi-worker needs TF_CONFIG, or JOB_COMPLETION_INDEX, WORKERS and "
            "WORKER_SERVICE, in the environment. Received: none of them. Set them as "
            "docs/operations.md shows, or use --distribution mirrored."
        )
    return mirrored_devices(cpu_replicas, only_one=distribution == "one")


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
      DeviceError: it has run something already, with fewer devices.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = len(tf.config.get_logical_device_configuration(cpu) or [cpu])
    if configured >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:  # devices are fixed once TensorFlow has run anything
        raise DeviceError(
            f"--cpu-replicas {count}: TensorFlow already runs with {configured} logical CPU device(s). "
            "Configure them before anything else uses TensorFlow."
        ) from error


def _multi_worker_devices(cluster: WorkerCluster, cpu_replicas: int | None) -> Devices:
    if cpu_replicas is not None:
        raise ConfigError(
            "--cpu-replicas is for one process: in a multi-worker run each worker uses its GPUs, or its CPU "
            f"as one replica. Received: --cpu-replicas {cpu_replicas}. Leave it out."
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
    """Turn what TensorFlow raises inside the block when a worker is lost into a WorkerLostError."""
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
            f"Worker {devices.worker} of {devices.workers} has lost another worker ({reason}). All of them "
            "restart and resume from the last saved state."
        ) from error
