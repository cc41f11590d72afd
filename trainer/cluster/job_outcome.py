"""How a training Job ended, and the exit code of its trainer."""

from __future__ import annotations

import re
from typing import Any

from trainer import errors
from trainer.cluster import pod_states
from trainer.errors import ClusterError, StoppedError, TrainerError, WorkerLostError

# The Job does not count these codes as failures: another worker's failure, or an eviction, caused them.
_NOT_COUNTED = (WorkerLostError.exit_code, StoppedError.exit_code)
_OTHER_CODES = {
    1: "a bug: the log ends with its traceback",
    137: "killed: out of memory, or still running after the grace period",
}


class JobFailedError(TrainerError):
    """The Job failed. The exit code is that of its trainer."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def job_outcome(job: Any) -> tuple[str, str] | None:
    """Return how a Job ended ("Complete" or "Failed") and why, or None while it has not ended."""
    for condition in job.status.conditions or ():
        if condition.type in ("Complete", "Failed") and condition.status == "True":
            why = ": ".join(part for part in (condition.reason, condition.message) if part)
            return condition.type, why or "no reason was given"
    return None


def failure(name: str, why: str, pods: list[Any]) -> TrainerError:
    """Return the error for a Job that failed.

    Args:
      name: of the Job.
      why: the second part of its outcome.
      pods: of the Job, as they are at its end.
    Returns:
      A JobFailedError with the trainer's exit code; a ClusterError if the trainer did not cause the failure.
    """
    code = _exit_code(why, pods)
    if code is None:
        return ClusterError(f"Job {name} failed: {pod_states.one_line(why)}")
    return JobFailedError(f"Job {name} failed: the trainer ended with code {code} ({meaning(code)}).", code)


def meaning(code: int) -> str:
    """Return what an exit code of the trainer means: the first line of its error's documentation."""
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


def _exit_code(why: str, pods: list[Any]) -> int | None:
    """Return the code that failed the Job: the one in its condition, or that of the last pod to fail."""
    if why.startswith("DeadlineExceeded"):
        return None
    if named := re.search(r"failed with exit code (\d+)", why):
        return int(named[1])
    ended = [(end, pod) for pod in pods if (end := pod_states.termination(pod)) and end.exit_code]
    counted = [one for one in ended if one[0].exit_code not in _NOT_COUNTED] or ended
    # A container that the kubelet lost track of has no end time.
    last = max(
        counted, key=lambda one: one[0].finished_at or one[1].metadata.creation_timestamp, default=None
    )
    return last[0].exit_code if last else None
