"""A namespace with the sample's images on its claim `data`, and the manifests applied; gone at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.cluster import (
    IMAGES,
    Namespace,
    access_mode,
    kubectl,
    patch,
    provisioner,
    why_not,
    worker_node,
)

_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = why_not() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.e2e)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """With storage, from the cluster or else from folders of one node. E2E_KEEP leaves it there."""
    created = Namespace()
    labels = {"app.kubernetes.io/name": "image-classifier", **_RESTRICTED}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": created.name, "labels": labels}}
    kubectl("apply", "--filename=-", stdin=json.dumps(manifest))
    own_volumes = "E2E_STORAGE_CLASS" not in os.environ and not provisioner()
    try:
        if own_volumes:
            os.environ["E2E_STORAGE_CLASS"] = created.name  # a name that only the volumes below have
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
    """Everything applied, the images pushed; the Job suspended, so that there is no model yet."""
    suspend = patch("batch/v1", "Job", "train-classifier", {"spec": {"suspend": True}})
    overlay = namespace.overlay("base", {}, patches=(suspend,))
    _bind_claims(namespace, overlay)
    kubectl("apply", "--kustomize", overlay)
    pushed = namespace.trainer("push-data", str(pictures), f"--overlay={overlay}")
    assert pushed.returncode == 0, pushed.stderr
    return namespace


def _bind_claims(namespace: Namespace, overlay: Path) -> None:
    """Have one pod use both claims before others do: volumes that are a node's are then the same node's."""
    documents = [one for one in yaml.safe_load_all(kubectl("kustomize", overlay)) if one]
    for document in documents:
        if document["kind"] == "PersistentVolumeClaim":
            kubectl("apply", "--filename=-", stdin=json.dumps(document))
    with namespace.caller("print('bound')", claims=("data", "models")) as pod:
        namespace.printed_by(pod)


def _make_volumes(name: str) -> None:
    """Make volumes of folders of a node; a pod opens them for all users, as fsGroup does not do."""
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
    # In a namespace of its own, where a pod may be root for a moment.
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
