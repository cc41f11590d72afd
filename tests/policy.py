"""What every object of k8s/ and overlays/ must hold to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Document = dict[str, Any]

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def name_of(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def pod_of(document: Document) -> Document | None:
    """Return the pod's spec of what makes pods."""
    if document["kind"] == "Pod":
        return dict(document["spec"])
    template = document.get("spec", {}).get("template")
    return dict(template["spec"]) if template else None


def violations(document: Document) -> Iterator[str]:
    """Pod Security `restricted`, and more that keeps pods from harm: limits, probes, pinned images, no token.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards.
    """
    labels = document["metadata"].get("labels", {})
    for label in ("app.kubernetes.io/name", "app.kubernetes.io/component"):
        if label not in labels:
            yield f"no label {label}"
    pod = pod_of(document)
    if pod is None:
        return
    yield from _of_pod(pod)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        probes = document["kind"] == "Deployment" and container in pod["containers"]
        for violation in _of_container(container, ("livenessProbe", "readinessProbe") if probes else ()):
            yield f"container {container['name']}: {violation}"


def _of_pod(pod: Document) -> Iterator[str]:
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares the node's namespaces"
    if pod.get("automountServiceAccountToken") is not False:
        yield "has a token of the API"
    if not pod.get("serviceAccountName"):
        yield "runs as the default service account"
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "may run as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    for volume in pod.get("volumes", []):
        if kinds := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is {kinds}"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no limit"


def _of_container(container: Document, probes: Sequence[str]) -> Iterator[str]:
    context, resources = container.get("securityContext", {}), container.get("resources", {})
    rules = {
        "may gain privileges": context.get("allowPrivilegeEscalation") is False,
        "may write its root file system": context.get("readOnlyRootFilesystem") is True,
        "has capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        "runs as root": context.get("runAsNonRoot", True) and context.get("runAsUser", 1) != 0,
        f"its image is not pinned: {container['image']}": _is_pinned(container["image"]),
        "no limit of memory": "memory" in resources.get("limits", {}),
        "no requests": {"cpu", "memory"} <= set(resources.get("requests", {})),
        "a port of the node": not any("hostPort" in port for port in container.get("ports", [])),
        **{f"no {probe}": probe in container for probe in probes},
    }
    yield from (violation for violation, holds in rules.items() if not holds)


def _is_pinned(image: str) -> bool:
    _, colon, tag = image.rpartition(":")
    return bool(colon) and tag != "latest" and "/" not in tag
