"""Fixtures that deploy the manifests and the sample's images to a temporary namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import (
    IMAGES,
    Namespace,
    access_mode,
    kubectl,
    patch,
    provisioner,
    reason_to_skip,
    worker_node,
)
from tests.kubernetes_objects import render

_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = reason_to_skip() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.e2e)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A namespace with storage: the cluster's, or folders of one node. E2E_KEEP keeps it after the tests."""
    created = Namespace()
    labels = {"app.kubernetes.io/name": "image-classifier", **_RESTRICTED}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": created.name, "labels": labels}}
    kubectl("apply", "--filename=-", stdin=json.dumps(manifest))
    own_volumes = "E2E_STORAGE_CLASS" not in os.environ and not provisioner()
    try:
        if own_volumes:
            os.environ["E2E_STORAGE_CLASS"] = created.name  # only the volumes below have this name
            _make_volumes(created.name)
        yield created
    finally:
        if "E2E_KEEP" not in os.environ:
            kubectl("delete", "namespace", created.name, "--wait=false")
            if own_volumes:
                kubectl("delete", "persistentvolumes", f"--selector=e2e={created.name}", "--wait=false")
            shutil.rmtree(created.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's drawings."""
    directory = tmp_path_factory.mktemp("data") / "images"
    subprocess.run([sys.executable, "-m", "trainer", "sample", directory], check=True, capture_output=True)
    return directory


@pytest.fixture(scope="session")
def deployed(namespace: Namespace, pictures: Path) -> Namespace:
    """The namespace with everything applied, the images pushed and the Job suspended, so without a model."""
    suspend = patch("batch/v1", "Job", "train-classifier", {"spec": {"suspend": True}})
    overlay = namespace.write_kustomization("base", {}, patches=(suspend,))
    _bind_claims(namespace, overlay)
    kubectl("apply", "--kustomize", overlay)
    pushed = namespace.trainer("push-data", str(pictures), f"--overlay={overlay}")
    assert pushed.returncode == 0, pushed.stderr
    return namespace


def _bind_claims(namespace: Namespace, overlay: Path) -> None:
    """Bind both claims through one pod, so that node-local volumes are on the same node."""
    for document in render(overlay):
        if document["kind"] == "PersistentVolumeClaim":
            kubectl("apply", "--filename=-", stdin=json.dumps(document))
    with namespace.caller("print('bound')", claims=("data", "models")) as pod:
        namespace.printed_by(pod)


def _make_volumes(name: str) -> None:
    """Make volumes from folders of a node.

    Kubernetes does not apply fsGroup to such folders, so a pod makes them writable for everyone.
    """
    mode, node = access_mode(), worker_node()
    there = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    for claim in ("data", "models"):
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{name}-{claim}", "labels": {"e2e": name}},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": [mode],
                "storageClassName": name,
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": name, "name": claim},
                "hostPath": {"path": f"/var/tmp/{name}/{claim}", "type": "DirectoryOrCreate"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [there]}},
            },
        }
        kubectl("apply", "--filename=-", stdin=json.dumps(volume))
    # The pod must run as root, so it gets a namespace that allows this.
    preparing = f"{name}-volumes"
    kubectl("create", "namespace", preparing)
    try:
        kubectl("label", "namespace", preparing, "pod-security.kubernetes.io/enforce=privileged")
        container = {
            "name": "prepare",
            "image": IMAGES["train"],
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "mkdir -p /node/data /node/models && chmod 777 /node/data /node/models"],
            "securityContext": {"runAsUser": 0},
            "volumeMounts": [{"name": "node", "mountPath": "/node"}],
        }
        host = {"name": "node", "hostPath": {"path": f"/var/tmp/{name}", "type": "DirectoryOrCreate"}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "prepare", "namespace": preparing},
            "spec": {
                "restartPolicy": "Never",
                "nodeSelector": {"kubernetes.io/hostname": node},
                "containers": [container],
                "volumes": [host],
            },
        }
        kubectl("apply", "--filename=-", stdin=json.dumps(pod))
        kubectl(
            *("wait", "pod/prepare", f"--namespace={preparing}", "--timeout=180s"),
            "--for=jsonpath={.status.phase}=Succeeded",
            timeout_s=200,
        )
    finally:
        kubectl("delete", "namespace", preparing, "--wait=false")
