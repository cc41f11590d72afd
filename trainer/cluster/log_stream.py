"""Stream the log of a training Job, and print what the Job waits for, until it ends."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from trainer.cluster import pod_states
from trainer.cluster.job_manifest import CONTAINER
from trainer.cluster.job_outcome import failure, job_outcome, meaning
from trainer.cluster.jobs import TrainingJobs, worker_of
from trainer.cluster.pod_states import one_line
from trainer.errors import ClusterError

POLL_S = 1.0
PATIENCE_S = 300.0
"""How long a cluster may not answer while its log is streamed."""


def stream_logs(jobs: TrainingJobs, name: str) -> None:
    """Print the log of a Job's worker 0 until the Job ends, and on stderr what the Job waits for.

    When another pod replaces the first, its log follows.

    Raises:
      JobFailedError: the Job failed; with the exit code of its trainer.
      ClusterError: it failed for another reason or was deleted, or the cluster does not answer.
    """
    _LogStream(jobs, name).run()


class _NewLines:
    """Filters a log that is read from its beginning several times."""

    def __init__(self) -> None:
        self._stamp = ""  # of the last line
        self._count = 0  # of lines with that stamp: several may have the same

    def of(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield the lines that have not been yielded yet, without their time stamps."""
        seen = self._count
        before = self._stamp
        for line in lines:
            stamp, _, text = line.partition(" ")
            if stamp < before:
                continue
            if stamp == before and seen:
                seen -= 1
                continue
            self._count = self._count + 1 if stamp == self._stamp else 1
            self._stamp = stamp
            yield text


class _LogStream:
    def __init__(self, jobs: TrainingJobs, name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._reported: set[str] = set()
        self._new_lines: dict[str, _NewLines] = {}  # by pod
        self._complete: set[str] = set()  # pods whose whole log has been printed

    def run(self) -> None:
        while True:
            job, pods = self._read_state()
            chiefs = [pod for pod in pods if worker_of(pod) == 0 and pod.metadata.name not in self._complete]
            if chief := next((pod for pod in chiefs if pod_states.has_started(pod)), None):
                self._print_log(chief)
                continue
            if outcome := job_outcome(job):
                ended, why = outcome
                if ended == "Failed":
                    raise failure(self._name, why, pods)
                return
            time.sleep(POLL_S)

    def _read_state(self) -> tuple[Any, list[Any]]:
        """Return the Job and its pods, and report what they wait for. Ask again while the cluster pauses."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                job, pods = self._jobs.get(self._name), self._jobs.pods(self._name)
                self._report_waiting(job, pods)
                return job, pods
            except ClusterError as error:
                if not isinstance(error.__cause__, HTTPError) or time.monotonic() > end:
                    raise
                self._report(f"{error} Trying again.")
                time.sleep(POLL_S)

    def _report(self, message: str, subject: str | None = None) -> None:
        """Print a message on stderr, unless one about the same subject has been printed."""
        if (subject or message) not in self._reported:
            self._reported.add(subject or message)
            print(message, file=sys.stderr, flush=True)

    def _report_waiting(self, job: Any, pods: list[Any]) -> None:
        running = not job_outcome(job)
        if job.spec.suspend:
            self._report(f"Job {self._name} is suspended until its queue admits it.")
        for pod in pods:
            for subject, message in pod_states.describe_by_subject(pod):
                self._report(message, subject)
            self._report_other_containers(pod)
            ended = pod_states.termination(pod)
            if running and ended and ended.exit_code:
                self._report(
                    f"Pod {pod.metadata.name} ended with code {ended.exit_code} "
                    f"({meaning(ended.exit_code)}). The Job decides whether to start another."
                )
        if running and not any(pod_states.has_started(pod) for pod in pods):
            self._report_events({self._name, *(pod.metadata.name for pod in pods)})

    def _report_events(self, names: set[str]) -> None:
        for event in self._jobs.events(names):
            if event.reason in pod_states.WARNING_REASONS:
                message = f"{event.involved_object.name}: {event.reason}: {one_line(event.message)}"
                # Each attempt has another name for the pod that cannot be created.
                self._report(message, re.sub(r'pods "[^"]*"', "pods", message))

    def _report_other_containers(self, pod: Any) -> None:
        """Report which init containers run before the trainer, or how one of them failed."""
        name = pod.metadata.name
        for status in pod_states.statuses(pod):
            if status.name == CONTAINER:
                continue
            if status.state.running:
                self._report(f"Pod {name} runs {status.name} first.")
            elif status.state.terminated and status.state.terminated.exit_code:
                self._report(
                    f"Pod {name}: {status.name} ended with code {status.state.terminated.exit_code}. See why "
                    f"with: kubectl logs {name} --container {status.name} --namespace {self._jobs.namespace}"
                )

    def _print_log(self, pod: Any) -> None:
        """Print the lines that have not been printed yet. More may come, unless the container has ended."""
        name = pod.metadata.name
        had_ended = pod_states.has_ended(pod)
        self._report(f"Pod {name} runs on node {pod.spec.node_name}.")
        new_lines = self._new_lines.setdefault(name, _NewLines())
        complete = True
        refusal: ClusterError | None = None
        try:
            for line in new_lines.of(self._jobs.log(name, follow=not had_ended)):
                print(line, flush=True)
        except ClusterError as error:
            complete = False  # a broken connection is made again; a refusal will not change
            refusal = error if isinstance(error.__cause__, ApiException) else None
        if had_ended and (complete or refusal):
            self._complete.add(name)
        elif not any(one.metadata.name == name for one in self._read_state()[1]):
            self._complete.add(name)
            self._report(f"Pod {name} was deleted. The Job starts another.")
            return
        if refusal:
            self._report(f"The log of pod {name} cannot be read: {refusal}")
        if not had_ended or not complete:
            time.sleep(POLL_S)
