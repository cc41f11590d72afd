"""The workers of a multi-worker run, from TF_CONFIG or from an Indexed Job's environment."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping

from trainer.errors import ConfigError

DEFAULT_PORT = 2222


@dataclasses.dataclass(frozen=True)
class WorkerCluster:
    """The workers that train together.

    Attributes:
      addresses: HOST:PORT of each worker; the first is the chief.
      worker: index of this process, from 0.
    """

    addresses: tuple[str, ...]
    worker: int


def find_workers(environment: Mapping[str, str]) -> WorkerCluster | None:
    """Return the workers that the environment describes; None: it describes none.

    TF_CONFIG wins. Otherwise a Kubernetes Indexed Job gives the same: its pods have host names JOB-INDEX and
    the variable JOB_COMPLETION_INDEX. The manifest adds WORKERS, their number, WORKER_SERVICE, the headless
    Service that gives each an address, and optionally WORKER_PORT.

    Source: https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable,
    https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication.
    Raises:
      ConfigError: the variables are incomplete or contradict each other.
    """
    if text := environment.get("TF_CONFIG"):
        return _from_tf_config(text)
    names = ("JOB_COMPLETION_INDEX", "WORKERS", "WORKER_SERVICE", "HOSTNAME")
    if "WORKERS" not in environment:
        return None  # every Indexed Job has an index; only WORKERS says that its pods train together
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ConfigError(f"A multi-worker Job needs {', '.join(names)}. Received: no {', '.join(missing)}.")
    index, count = (_whole_number(environment, name) for name in ("JOB_COMPLETION_INDEX", "WORKERS"))
    port = _whole_number(environment, "WORKER_PORT") if "WORKER_PORT" in environment else DEFAULT_PORT
    job, _, suffix = environment["HOSTNAME"].split(".")[0].rpartition("-")
    if suffix != str(index) or not job or index >= count:
        raise ConfigError(
            "A worker's HOSTNAME must be JOB-INDEX, with JOB_COMPLETION_INDEX below WORKERS. Received: "
            f"HOSTNAME={environment['HOSTNAME']}, JOB_COMPLETION_INDEX={index}, WORKERS={count}."
        )
    service = environment["WORKER_SERVICE"]
    return WorkerCluster(tuple(f"{job}-{worker}.{service}:{port}" for worker in range(count)), index)


def _whole_number(environment: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"\d+", environment[name]):
        raise ConfigError(f"{name} must be a whole number. Received: {environment[name]!r}.")
    return int(environment[name])


def _from_tf_config(text: str) -> WorkerCluster:
    try:
        parsed = json.loads(text)
        cluster = WorkerCluster(tuple(map(str, parsed["cluster"]["worker"])), int(parsed["task"]["index"]))
        others = set(parsed["cluster"]) - {"worker"} or parsed["task"]["type"] != "worker"
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host:port", …]}, "task": {"type": '
            f'"worker", "index": 0}}}}. Received: {text!r}.'
        ) from error
    if others or not 0 <= cluster.worker < len(cluster.addresses):
        raise ConfigError(
            "TF_CONFIG must hold workers only, worker 0 being the chief, and a task index below their "
            f"number. Received: {text!r}."
        )
    return cluster
