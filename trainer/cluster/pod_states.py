"""The state of a Job's pod: why it does not run yet, and whether its trainer has started or ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer.cluster.job_manifest import CONTAINER

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff")
WARNING_REASONS = ("FailedCreate", "FailedMount", "FailedAttachVolume", "ProvisioningFailed")
"""Reasons of warning events that say more than the pod's own status."""


def describe(pod: Any) -> Iterator[str]:
    """Yield a line for each thing that keeps a pod from running, or ends it from outside."""
    for _, line in describe_by_subject(pod):
        yield line


def describe_by_subject(pod: Any) -> Iterator[tuple[str, str]]:
    """Yield the lines of `describe`, each after its subject. One line per subject is enough for a reader."""
    name = pod.metadata.name
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.reason == "Unschedulable":
            message = one_line(condition.message)
            line = f"Pod {name} cannot be scheduled: {message} {_advice(message)}"
            yield line, line
        if condition.type == "DisruptionTarget" and condition.status == "True":
            line = f"Pod {name} is being evicted: {one_line(condition.message or condition.reason)}"
            yield line, line
    for status in statuses(pod):
        waiting = status.state.waiting
        if waiting and waiting.reason in _PULL:
            # The reason alternates between a failed pull and the wait for the next one.
            yield (
                f"{name} {status.name} image",
                (
                    f"Pod {name}: the image {status.image} cannot be pulled ({waiting.reason}: "
                    f"{one_line(waiting.message)}). Check its name, and that the nodes may pull it."
                ),
            )
        elif waiting and waiting.reason in _START:
            line = (
                f"Pod {name}: container {status.name} cannot start ({waiting.reason}: "
                f"{one_line(waiting.message)}). Fix what it names, or apply the manifests again."
            )
            yield line, line


def _advice(message: str) -> str:
    if "persistentvolumeclaim" in message.lower():
        return "Check that the claim exists and is bound: kubectl get pvc."
    return "It waits for a node with enough free resources. If there is none, request less or add nodes."


def has_started(pod: Any) -> bool:
    """Return whether the pod's trainer runs or has ended. Before that there is no log."""
    status = _status_of_trainer(pod)
    return status is not None and bool(status.state.running or status.state.terminated)


def has_ended(pod: Any) -> bool:
    """Return whether the pod's trainer has ended, or can no longer report that it has."""
    # On a lost node, the pod counts as failed while its container counts as running for ever.
    return termination(pod) is not None or pod.status.phase in ("Failed", "Succeeded")


def termination(pod: Any) -> Any:
    """Return how the pod's trainer ended (exit code and time), or None while it has not."""
    status = _status_of_trainer(pod)
    return status.state.terminated if status else None


def _status_of_trainer(pod: Any) -> Any:
    containers = pod.status.container_statuses or ()
    return next((status for status in containers if status.name == CONTAINER), None)


def statuses(pod: Any) -> list[Any]:
    """Return the status of each container, init containers first."""
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]


def one_line(text: str | None) -> str:
    """Return a message of the cluster without line breaks."""
    return " ".join((text or "no message").split())
