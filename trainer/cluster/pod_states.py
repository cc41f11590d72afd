"""Why a pod does not run yet, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff")
WARNING_REASONS = ("FailedCreate", "FailedMount", "FailedAttachVolume", "ProvisioningFailed")
"""Reasons of warnings that say more than the pod itself."""


def describe(pod: Any) -> Iterator[str]:
    """Yield a line for each thing that keeps a pod from running, or ends it from outside."""
    for _, line in describe_by_subject(pod):
        yield line


def describe_by_subject(pod: Any) -> Iterator[tuple[str, str]]:
    """Yield what each line of `in_words` is about, and the line: of two about the same, one is enough."""
    name = pod.metadata.name
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.reason == "Unschedulable":
            message = one_line(condition.message)
            line = f"Pod {name} finds no node: {message} {_advice(message)}"
            yield line, line
        if condition.type == "DisruptionTarget" and condition.status == "True":
            line = f"Pod {name} is taken off its node: {one_line(condition.message or condition.reason)}"
            yield line, line
    for status in statuses(pod):
        waiting = status.state.waiting
        if waiting and waiting.reason in _PULL:
            # The reason goes back and forth between a try and the wait for the next.
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
                f"{one_line(waiting.message)}). Apply the manifests again, or mend what it names."
            )
            yield line, line


def _advice(message: str) -> str:
    if "persistentvolumeclaim" in message.lower():
        return "The claim must be there and bound: kubectl get pvc."
    return "It waits until one is free; if none can be, lower what it asks for, or add nodes."


def statuses(pod: Any) -> list[Any]:
    """Return the status of each container, init containers first."""
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]


def one_line(text: str | None) -> str:
    """Return a message of the cluster's without line breaks."""
    return " ".join((text or "no message").split())
