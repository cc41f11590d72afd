"""What a Job waits for, in words; its log as it comes; its outcome."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from trainer import errors
from trainer.cluster import pod_states
from trainer.cluster.job_manifest import CONTAINER
from trainer.cluster.jobs import TrainingJobs, worker_of
from trainer.cluster.pod_states import one_line
from trainer.errors import ClusterError, StoppedError, TrainerError, WorkerLostError

POLL_S = 1.0
PATIENCE_S = 300.0
"""How long a cluster may not answer while a Job is followed."""

_NOT_COUNTED = (WorkerLostError.exit_code, StoppedError.exit_code)
_OTHER_CODES = {
    1: "a bug: the log ends with its traceback",
    137: "killed: out of memory, or longer than the grace period",
}


class JobFailedError(TrainerError):
    """The Job has failed; the exit code is its trainer's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def stream_logs(jobs: TrainingJobs, name: str) -> None:
    """Print the log of a Job's worker 0 until the Job ends, and on stderr what it waits for.

    When a pod takes the place of another, its log goes on from there.

    Raises:
      JobFailedError: the Job failed; with the exit code of its trainer.
      ClusterError: it failed for another reason, or was deleted; or the cluster does not answer.
    """
    _Follower(jobs, name).run()


def job_outcome(job: Any) -> tuple[str, str] | None:
    """Return how a Job ended, "Complete" or "Failed", and why; None: it has not."""
    for condition in job.status.conditions or ():
        if condition.type in ("Complete", "Failed") and condition.status == "True":
            said = ": ".join(part for part in (condition.reason, condition.message) if part)
            return condition.type, said or "no reason was given"
    return None


def has_started(pod: Any) -> bool:
    """Return whether a pod's trainer runs or has ended: before that there is no log."""
    status = _status_of_trainer(pod)
    return status is not None and bool(status.state.running or status.state.terminated)


class _Lines:
    """Which lines of a log have been printed, though it is read from its beginning each time."""

    def __init__(self) -> None:
        self._stamp = ""  # of the last line
        self._count = 0  # of lines with that stamp: several may have the same

    def new(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield those that have not been yielded yet, without the time of their writing."""
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


class _Follower:
    def __init__(self, jobs: TrainingJobs, name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._said: set[str] = set()
        self._printed: dict[str, _Lines] = {}  # by pod
        self._read: set[str] = set()  # pods whose log has come to its end

    def run(self) -> None:
        while True:
            job, pods = self._look()
            chiefs = [pod for pod in pods if worker_of(pod) == 0 and pod.metadata.name not in self._read]
            if chief := next((pod for pod in chiefs if has_started(pod)), None):
                self._print_log(chief)
                continue
            if ended := job_outcome(job):
                self._end(*ended, pods)
                return
            time.sleep(POLL_S)

    def _look(self) -> tuple[Any, list[Any]]:
        """Return the Job and its pods, and say what they wait for; a cluster may pause meanwhile."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                job, pods = self._jobs.get(self._name), self._jobs.pods(self._name)
                self._tell(job, pods)
                return job, pods
            except ClusterError as error:
                if not isinstance(error.__cause__, HTTPError) or time.monotonic() > end:
                    raise
                self._say(f"{error} Trying again.")
                time.sleep(POLL_S)

    def _say(self, message: str, about: str | None = None) -> None:
        if (about or message) not in self._said:
            self._said.add(about or message)
            print(message, file=sys.stderr, flush=True)

    def _tell(self, job: Any, pods: list[Any]) -> None:
        if job.spec.suspend:
            self._say(f"{self._name} is suspended: it waits for its queue to admit it.")
        for pod in pods:
            for about, message in pod_states.describe_by_subject(pod):
                self._say(message, about)
            self._tell_of_others(pod)
            ended = _terminated(pod)
            if ended and ended.exit_code and not job_outcome(job):
                self._say(
                    f"Pod {pod.metadata.name} ended with code {ended.exit_code} "
                    f"({_meaning(ended.exit_code)}); the Job decides whether another takes its place."
                )
        if not job_outcome(job) and not any(has_started(pod) for pod in pods):
            names = {self._name, *(pod.metadata.name for pod in pods)}
            for event in self._jobs.events(names):
                if event.reason in pod_states.WARNING_REASONS:
                    message = f"{event.involved_object.name}: {event.reason}: {one_line(event.message)}"
                    # Each try has another name for the pod that it cannot make.
                    self._say(message, re.sub(r'pods "[^"]*"', "pods", message))

    def _tell_of_others(self, pod: Any) -> None:
        """Say of the containers before the trainer's that they run, or why there is no trainer."""
        name = pod.metadata.name
        for status in pod_states.statuses(pod):
            if status.name == CONTAINER:
                continue
            if status.state.running:
                self._say(f"Pod {name} runs {status.name} first.")
            elif status.state.terminated and status.state.terminated.exit_code:
                self._say(
                    f"Pod {name}: {status.name} ended with code {status.state.terminated.exit_code}; why: "
                    f"kubectl logs {name} --container {status.name} --namespace {self._jobs.namespace}"
                )

    def _print_log(self, pod: Any) -> None:
        """Print the lines that have not been printed yet; more may come, unless the container has ended."""
        name = pod.metadata.name
        had_ended = _has_ended(pod)
        self._say(f"Pod {name} runs on node {pod.spec.node_name}.")
        printed = self._printed.setdefault(name, _Lines())
        complete = True
        refusal: ClusterError | None = None
        try:
            for line in printed.new(self._jobs.log(name, follow=not had_ended)):
                print(line, flush=True)
        except ClusterError as error:
            complete = False  # a connection that broke is made again; a refusal will not change
            refusal = error if isinstance(error.__cause__, ApiException) else None
        if had_ended and (complete or refusal):
            self._read.add(name)
        elif not any(one.metadata.name == name for one in self._look()[1]):
            self._read.add(name)
            self._say(f"Pod {name} is gone; the Job starts another.")
            return
        if refusal:
            self._say(f"The log of pod {name} cannot be read: {refusal}")
        if not had_ended or not complete:
            time.sleep(POLL_S)

    def _end(self, how: str, why: str, pods: list[Any]) -> None:
        if how == "Complete":
            return
        code = _exit_code(why, pods)
        if code is None:
            raise ClusterError(f"Job {self._name} failed: {one_line(why)}")
        raise JobFailedError(
            f"Job {self._name} failed: the trainer ended with code {code} ({_meaning(code)}).", code
        )


def _status_of_trainer(pod: Any) -> Any:
    statuses = pod.status.container_statuses or ()
    return next((status for status in statuses if status.name == CONTAINER), None)


def _terminated(pod: Any) -> Any:
    status = _status_of_trainer(pod)
    return status.state.terminated if status else None


def _has_ended(pod: Any) -> bool:
    # Where the node is lost, the pod counts as failed and its container as running, for ever.
    return _terminated(pod) is not None or pod.status.phase in ("Failed", "Succeeded")


def _exit_code(why: str, pods: list[Any]) -> int | None:
    """Return the code that failed the Job: named by its condition, or else of the pod that ended last."""
    if why.startswith("DeadlineExceeded"):
        return None
    if named := re.search(r"failed with exit code (\d+)", why):
        return int(named[1])
    ended = [(state, pod) for pod in pods if (state := _terminated(pod)) and state.exit_code]
    # What the Job does not count has not failed it: other workers end with 9 because of the one that did.
    counted = [one for one in ended if one[0].exit_code not in _NOT_COUNTED] or ended
    # A container that the kubelet lost sight of has no time of its end.
    last = max(
        counted, key=lambda one: one[0].finished_at or one[1].metadata.creation_timestamp, default=None
    )
    return last[0].exit_code if last else None


def _meaning(code: int) -> str:
    """Return the first line of the documentation of the error that has this exit code."""
    if code in _OTHER_CODES:
        return _OTHER_CODES[code]
    for error in vars(errors).values():
        if (
            isinstance(error, type)
            and issubclass(error, TrainerError)
            and vars(error).get("exit_code") == code
        ):
            return (error.__doc__ or "").partition("\n")[0].rstrip(".")
    return "an unknown code"
