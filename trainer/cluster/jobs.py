"""The training Jobs of a namespace, and their pods, events and logs."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any, cast

import kubernetes

from trainer.cluster import api_server
from trainer.cluster.job_manifest import CONTAINER, Manifest
from trainer.errors import ClusterError

_SELECTOR = "app.kubernetes.io/name=image-classifier,app.kubernetes.io/component=training"
_OF_JOB = "batch.kubernetes.io/job-name"
_INDEX = "batch.kubernetes.io/job-completion-index"

_ANSWER_S = 30.0

SILENCE_S = 120.0
"""After this long without a line, the connection to a log may be dead and is made again."""


class TrainingJobs:
    """The training Jobs of one namespace.

    Every method raises ClusterError when the API server refuses or does not answer.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        api = api_server.connect()
        self._batch = kubernetes.client.BatchV1Api(api)
        self._core = kubernetes.client.CoreV1Api(api)

    def create(self, job: Manifest) -> None:
        """Create a Job."""
        with api_server.explain_refusal(f"let this user create Jobs in namespace {self.namespace}"):
            self._batch.create_namespaced_job(self.namespace, cast(Any, job))

    def all(self) -> list[Any]:
        """Return the Jobs, newest first."""
        with api_server.explain_refusal(f"let this user list Jobs in namespace {self.namespace}"):
            found = self._batch.list_namespaced_job(
                self.namespace, label_selector=_SELECTOR, _request_timeout=_ANSWER_S
            ).items
        return sorted(found, key=_age, reverse=True)

    def get(self, name: str) -> Any:
        """Return a Job.

        Raises:
          ClusterError: there is no Job of that name.
        """
        jobs = self.all()
        for job in jobs:
            if job.metadata.name == name:
                return job
        names = ", ".join(job.metadata.name for job in jobs) or "none"
        raise ClusterError(
            f"JOB must be a training Job in namespace {self.namespace}. Received: {name}. Found: {names}."
        )

    def delete(self, name: str) -> None:
        """Delete a Job and its pods. The pods save their state before they end."""
        self.get(name)
        with api_server.explain_refusal(f"let this user delete Jobs in namespace {self.namespace}"):
            self._batch.delete_namespaced_job(name, self.namespace, propagation_policy="Foreground")

    def pods(self, name: str) -> list[Any]:
        """Return a Job's pods, oldest first."""
        with api_server.explain_refusal(f"let this user list Pods in namespace {self.namespace}"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{_OF_JOB}={name}", _request_timeout=_ANSWER_S
            ).items
        return sorted(found, key=_age)

    def events(self, names: set[str]) -> list[Any]:
        """Return the warnings about objects of these names, oldest first."""
        with api_server.explain_refusal(f"let this user list Events in namespace {self.namespace}"):
            found = self._core.list_namespaced_event(
                self.namespace, field_selector="type=Warning", _request_timeout=_ANSWER_S
            ).items
        return sorted((event for event in found if event.involved_object.name in names), key=_age)

    def log(self, pod: str, follow: bool) -> Iterator[str]:
        """Yield the lines of the trainer, each after its time stamp and a space.

        Args:
          follow: wait for further lines until the container or the connection ends. An incomplete last line
            is left out.
        """
        with api_server.explain_refusal(f"let this user read the logs of Pods in namespace {self.namespace}"):
            response: Any = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=CONTAINER,
                follow=follow,
                timestamps=True,
                _preload_content=False,
                _request_timeout=SILENCE_S,
            )
            try:
                rest = b""
                for chunk in response.stream(decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode("utf-8", "replace") for line in lines)
                if rest and not follow:
                    yield rest.decode("utf-8", "replace")
            finally:
                response.close()
                response.release_conn()


def worker_of(pod: Any) -> int:
    """Return the index of a pod's worker. 0 is the chief, or the only pod of another Job."""
    return int((pod.metadata.annotations or {}).get(_INDEX, 0))


def _age(found: Any) -> datetime.datetime:
    created = found.metadata.creation_timestamp
    return created or datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
