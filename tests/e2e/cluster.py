"""Drives the current kubeconfig's cluster with kubectl."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests import kubernetes_objects
from tests.kubernetes_objects import ROOT

IMAGES = {
    name: os.environ.get(f"E2E_{name.upper()}_IMAGE", f"image-classifier-{name}:0.1.0")
    for name in ("train", "serve", "gateway")
}
"""Image names that the nodes have or can pull; E2E_TRAIN_IMAGE and so on override them."""

_T = TypeVar("_T")


def kubectl(*arguments: object, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Run kubectl and return its standard output.

    Raises:
      AssertionError: kubectl failed; the message includes its standard error.
    """
    done = subprocess.run(
        ["kubectl", *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def reason_to_skip() -> str | None:
    """Return why no cluster can be tested; None if one can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    done = subprocess.run(
        ["kubectl", "get", "--raw=/readyz", "--request-timeout=10s"], capture_output=True, text=True
    )
    error = " ".join(done.stderr.split()) or "no reply"
    return None if done.returncode == 0 else f"no cluster is reachable: {error[-200:]}"


def wait_for(what: Callable[[], _T | None], message: str, timeout_s: float = 600) -> _T:
    """Call `what` every second until it returns something other than None.

    Raises:
      AssertionError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while (found := what()) is None:
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {message}"
        time.sleep(1)
    return found


class Namespace:
    """A namespace for one run of the suite, which enforces Pod Security `restricted`."""

    def __init__(self) -> None:
        self.name = f"classifier-e2e-{uuid.uuid4().hex[:6]}"
        self.directory = ROOT / "build" / "e2e" / self.name

    def kubectl(self, *arguments: object, stdin: str | None = None, timeout_s: float = 120) -> str:
        return kubectl("--namespace", self.name, *arguments, stdin=stdin, timeout_s=timeout_s)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of a component that are not being deleted."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        items = json.loads(self.kubectl("get", "pods", selector, "--output=json"))["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def rollout(self, deployment: str, timeout_s: float = 600) -> None:
        self.kubectl(
            *("rollout", "status", f"deployment/{deployment}", f"--timeout={timeout_s:g}s"),
            timeout_s=timeout_s + 10,
        )

    def trainer(self, *arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """Run `python -m trainer` on this machine, against this namespace."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout_s)

    def command(self, command: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "trainer", command, *map(str, arguments), f"--namespace={self.name}"]

    @contextlib.contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """Forward a port of a Service or pod, and yield its local address."""
        command = ["kubectl", "--namespace", self.name, "port-forward", target, f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                assert found, f"kubectl port-forward {target} did not start"
                yield f"127.0.0.1:{found[1]}"
            finally:
                process.terminate()

    @contextlib.contextmanager
    def caller(self, code: str, *arguments: object, claims: Sequence[str] = ("data",)) -> Iterator[str]:
        """Run Python in a pod that may call the server, and yield the pod's name. Claims are at /CLAIM."""
        name = f"caller-{uuid.uuid4().hex[:6]}"
        container = {
            "name": "caller",
            "image": IMAGES["gateway"],
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-u", "-c", code, *map(str, arguments)],
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": one, "mountPath": f"/{one}", "readOnly": True} for one in claims],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"image-classifier/client": "true"}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "runAsGroup": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in claims],
            },
        }
        self.kubectl("apply", "--filename=-", stdin=json.dumps(pod))
        try:
            yield name
        finally:
            self.kubectl("delete", "pod", name, "--wait=false")

    def printed_by(self, pod: str, timeout_s: float = 300) -> str:
        """Wait until a pod has succeeded, and return its log."""

        def ended() -> str | None:
            phase = self.get("pod", pod)["status"]["phase"]
            return phase if phase in ("Succeeded", "Failed") else None

        phase = wait_for(ended, f"{pod} ends", timeout_s)
        log = self.kubectl("logs", pod)
        assert phase == "Succeeded", log
        return log

    def write_kustomization(
        self,
        name: str,
        settings: dict[str, Any],
        components: tuple[str, ...] = (),
        patches: tuple[dict[str, Any], ...] = (),
    ) -> Path:
        """Write a kustomization of k8s/ for clusters without GPUs; return its directory.

        Args:
          settings: added to the trainer's TOML, which makes runs small.
          components: names in components/.
          patches: added to those that make everything small.
        """
        directory = self.directory / name
        toml = {
            **{"name": "classifier", "backbone": "resnet50v2", "weights": "none", "image_size": 64},
            **{"learning_rate": 0.05, "epochs": 10, "keep_versions": 5},
            **settings,
        }
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in toml.items())
        claim = {"spec": {"accessModes": [access_mode()], **storage_class()}}
        all_patches = [
            *patches,
            patch("v1", "ConfigMap", "classifier-training", {"data": {"train.toml": text}}),
            patch("batch/v1", "Job", "train-classifier", small("trainer", "1Gi", {"nvidia.com/gpu": None})),
            patch("apps/v1", "Deployment", "classifier", small("tensorflow-serving", "256Mi")),
            patch("apps/v1", "Deployment", "classifier", as_loaded("initContainers", "wait-for-model")),
            patch("apps/v1", "Deployment", "classifier-gateway", small("gateway", "128Mi")),
            # Requests are so small that any load would scale far up.
            patch("autoscaling/v2", "HorizontalPodAutoscaler", "classifier", {"spec": {"maxReplicas": 2}}),
            *(patch("v1", "PersistentVolumeClaim", name, claim) for name in ("data", "models")),
        ]
        kubernetes_objects.write_kustomization(
            directory,
            components=components,
            namespace=self.name,
            images=[image(name) for name in IMAGES],
            patches=[{"patch": yaml.safe_dump(one)} for one in all_patches],
        )
        return directory


def patch(version: str, kind: str, name: str, change: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **change}


def small(container: str, memory: str, limits: dict[str, None] | None = None) -> dict[str, Any]:
    change = as_loaded("containers", container)
    resources = {"requests": {"cpu": "50m", "memory": memory}, "limits": limits or {}}
    change["spec"]["template"]["spec"]["containers"][0]["resources"] = resources
    return change


def as_loaded(kind: str, container: str) -> dict[str, Any]:
    """Return a patch that uses the node's image, whatever its tag."""
    pod = {kind: [{"name": container, "imagePullPolicy": "IfNotPresent"}]}
    return {"spec": {"template": {"spec": pod}}}


def image(name: str) -> dict[str, str]:
    """Return the entry of `images:` that replaces a manifest's image with the one in IMAGES."""
    new, at, digest = IMAGES[name].partition("@")
    override = {"name": f"image-classifier-{name}"}
    if at:
        return {**override, "newName": new, "digest": digest}
    repository, colon, tag = new.rpartition(":")
    if not colon or "/" in tag:  # the colon belongs to the registry's port
        return {**override, "newName": new, "newTag": "latest"}
    return {**override, "newName": repository, "newTag": tag}


def storage_class() -> dict[str, str]:
    """Return the storageClassName of E2E_STORAGE_CLASS; empty for the cluster's default."""
    name = os.environ.get("E2E_STORAGE_CLASS")
    return {} if name is None else {"storageClassName": name}


def access_mode() -> str:
    """Return E2E_ACCESS_MODE, or ReadWriteOnce if volumes stay on one node, or else ReadWriteMany."""
    given = os.environ.get("E2E_ACCESS_MODE")
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    on_one_node = len(nodes) == 1 or any(word in provisioner() for word in ("local-path", "hostpath"))
    return given or ("ReadWriteOnce" if on_one_node else "ReadWriteMany")


def provisioner() -> str:
    """Return the provisioner of the storage class in use; empty if there is no class."""
    classes = json.loads(kubectl("get", "storageclasses", "--output=json"))["items"]
    default = "storageclass.kubernetes.io/is-default-class"
    named = os.environ.get("E2E_STORAGE_CLASS")
    for one in classes:
        annotations = one["metadata"].get("annotations", {})
        if one["metadata"]["name"] == named or (named is None and annotations.get(default) == "true"):
            return str(one["provisioner"])
    return ""


def worker_node() -> str:
    """Return the host name of a node without taints, or of the first node."""
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    free = [node for node in nodes if not node["spec"].get("taints")] or nodes
    return str(free[0]["metadata"]["labels"]["kubernetes.io/hostname"])
