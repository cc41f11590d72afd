"""The rules that every object of k8s/, components/ and overlays/ follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.kubernetes_objects import Document, pod_spec

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def violations(document: Document) -> Iterator[str]:
    """Yield each broken rule of Pod Security `restricted` and of this project.

    The project's own rules are labels, resource limits, probes, pinned images and no API token.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards.
    """
    labels = document["metadata"].get("labels", {})
    for label in ("app.kubernetes.io/name", "app.kubernetes.io/component"):
        if label not in labels:
            yield f"no label {label}"
    pod = pod_spec(document)
    if not pod:
        return
    yield from _pod_violations(pod)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        probes = document["kind"] == "Deployment" and container in pod["containers"]
        for violation in _container_violations(
            container, ("livenessProbe", "readinessProbe") if probes else ()
        ):
            yield f"container {container['name']}: {violation}"


def _pod_violations(pod: Document) -> Iterator[str]:
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares the node's namespaces"
    if pod.get("automountServiceAccountToken") is not False:
        yield "mounts an API token"
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
            yield f"volume {volume['name']} has no size limit"


def _container_violations(container: Document, probes: Sequence[str]) -> Iterator[str]:
    context, resources = container.get("securityContext", {}), container.get("resources", {})
    rules = {
        "may gain privileges": context.get("allowPrivilegeEscalation") is False,
        "may write its root file system": context.get("readOnlyRootFilesystem") is True,
        "has capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        "runs as root": context.get("runAsNonRoot", True) and context.get("runAsUser", 1) != 0,
        f"image is not pinned: {container['image']}": _is_pinned(container["image"]),
        "no memory limit": "memory" in resources.get("limits", {}),
        "no resource requests": {"cpu", "memory"} <= set(resources.get("requests", {})),
        "uses a host port": not any("hostPort" in port for port in container.get("ports", [])),
        **{f"no {probe}": probe in container for probe in probes},
    }
    yield from (violation for violation, holds in rules.items() if not holds)


def _is_pinned(image: str) -> bool:
    _, colon, tag = image.rpartition(":")
    return bool(colon) and tag != "latest" and "/" not in tag
