"""The cluster that the current kubeconfig names, through kubectl."""

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

ROOT = Path(__file__).parents[2]
IMAGES = {
    name: os.environ.get(f"E2E_{name.upper()}_IMAGE", f"image-classifier-{name}:0.1.0")
    for name in ("train", "serve", "gateway")
}
"""E2E_TRAIN_IMAGE, E2E_SERVE_IMAGE, E2E_GATEWAY_IMAGE: under which names the nodes have or pull them."""

_T = TypeVar("_T")


def kubectl(*arguments: object, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Return what it prints.

    Raises:
      AssertionError: it failed; holds what it said.
    """
    done = subprocess.run(
        ["kubectl", *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def why_not() -> str | None:
    """Say why there is no cluster to test on; None: there is one."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    done = subprocess.run(
        ["kubectl", "get", "--raw=/readyz", "--request-timeout=10s"], capture_output=True, text=True
    )
    said = " ".join(done.stderr.split()) or "no answer"
    return None if done.returncode == 0 else f"no cluster answers: {said[-200:]}"


def wait_for(what: Callable[[], _T | None], message: str, timeout_s: float = 600) -> _T:
    """Ask every second until there is an answer.

    Raises:
      AssertionError: there was none in time.
    """
    deadline = time.monotonic() + timeout_s
    while (found := what()) is None:
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {message}"
        time.sleep(1)
    return found


class Namespace:
    """A namespace of its own, in which Pod Security `restricted` is enforced."""

    def __init__(self) -> None:
        self.name = f"classifier-e2e-{uuid.uuid4().hex[:6]}"
        self.directory = ROOT / "build" / "e2e" / self.name

    def kubectl(self, *arguments: object, stdin: str | None = None, timeout_s: float = 120) -> str:
        return kubectl("--namespace", self.name, *arguments, stdin=stdin, timeout_s=timeout_s)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        items = json.loads(self.kubectl("get", "pods", selector, "--output=json"))["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def rollout(self, deployment: str, timeout_s: float = 600) -> None:
        self.kubectl(
            *("rollout", "status", f"deployment/{deployment}", f"--timeout={timeout_s:g}s"),
            timeout_s=timeout_s + 10,
        )

    def trainer(self, *arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """Run one of the launcher's commands here, in this namespace."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout_s)

    def command(self, command: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "trainer", command, *map(str, arguments), f"--namespace={self.name}"]

    @contextlib.contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """Yield the local address of a port of a Service or a pod."""
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
        """Run Python in a pod that may ask the server, with claims at /CLAIM; yield the pod's name."""
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
        """Return what a pod has printed when it has ended well."""

        def ended() -> str | None:
            phase = self.get("pod", pod)["status"]["phase"]
            return phase if phase in ("Succeeded", "Failed") else None

        phase = wait_for(ended, f"{pod} ends", timeout_s)
        log = self.kubectl("logs", pod)
        assert phase == "Succeeded", log
        return log

    def overlay(
        self,
        name: str,
        settings: dict[str, Any],
        components: tuple[str, ...] = (),
        patches: tuple[dict[str, Any], ...] = (),
    ) -> Path:
        """Write a kustomization over k8s/ for any cluster without GPUs; return its directory.

        Args:
          settings: what stands in the trainer's TOML, beside what makes it small.
          components: of overlays/.
          patches: more of them.
        """
        directory = self.directory / name
        directory.mkdir(parents=True)
        up = Path(os.path.relpath(ROOT, directory))
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
            # With so little asked for, any load is many times as much.
            patch("autoscaling/v2", "HorizontalPodAutoscaler", "classifier", {"spec": {"maxReplicas": 2}}),
            *(patch("v1", "PersistentVolumeClaim", name, claim) for name in ("data", "models")),
        ]
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.name,
            "resources": [str(up / "k8s")],
            "components": [str(up / "overlays" / component / "component") for component in components],
            "images": [image(name) for name in IMAGES],
            "patches": [{"patch": yaml.safe_dump(one)} for one in all_patches],
        }
        (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return directory


def patch(version: str, kind: str, name: str, change: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **change}


def small(container: str, memory: str, limits: dict[str, None] | None = None) -> dict[str, Any]:
    change = as_loaded("containers", container)
    resources = {"requests": {"cpu": "50m", "memory": memory}, "limits": limits or {}}
    change["spec"]["template"]["spec"]["containers"][0]["resources"] = resources
    return change


def as_loaded(kind: str, container: str) -> dict[str, Any]:
    """Take the image that the node has, whatever its tag is."""
    pod = {kind: [{"name": container, "imagePullPolicy": "IfNotPresent"}]}
    return {"spec": {"template": {"spec": pod}}}


def image(name: str) -> dict[str, str]:
    """Return kustomize's override, from the manifests' name to the environment's."""
    new, at, digest = IMAGES[name].partition("@")
    override = {"name": f"image-classifier-{name}"}
    if at:
        return {**override, "newName": new, "digest": digest}
    repository, colon, tag = new.rpartition(":")
    if not colon or "/" in tag:  # a port of the registry, and no tag
        return {**override, "newName": new, "newTag": "latest"}
    return {**override, "newName": repository, "newTag": tag}


def storage_class() -> dict[str, str]:
    """E2E_STORAGE_CLASS, or else the cluster's default."""
    name = os.environ.get("E2E_STORAGE_CLASS")
    return {} if name is None else {"storageClassName": name}


def access_mode() -> str:
    """E2E_ACCESS_MODE; or else ReadWriteMany, but where all pods are on the volume's node ReadWriteOnce."""
    given = os.environ.get("E2E_ACCESS_MODE")
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    on_one_node = len(nodes) == 1 or any(word in provisioner() for word in ("local-path", "hostpath"))
    return given or ("ReadWriteOnce" if on_one_node else "ReadWriteMany")


def provisioner() -> str:
    """Of the storage class that is used; empty: there is none."""
    classes = json.loads(kubectl("get", "storageclasses", "--output=json"))["items"]
    default = "storageclass.kubernetes.io/is-default-class"
    named = os.environ.get("E2E_STORAGE_CLASS")
    for one in classes:
        annotations = one["metadata"].get("annotations", {})
        if one["metadata"]["name"] == named or (named is None and annotations.get(default) == "true"):
            return str(one["provisioner"])
    return ""


def worker_node() -> str:
    """Return the host name of a node that takes pods: one without taints."""
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    free = [node for node in nodes if not node["spec"].get("taints")] or nodes
    return str(free[0]["metadata"]["labels"]["kubernetes.io/hostname"])
