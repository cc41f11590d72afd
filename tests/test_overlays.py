"""Every overlay, and every combination of them, renders to objects that are valid and hold to the policy."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving_client import Client, ServingError, Tls
from tests.e2e import cluster
from tests.policy import Document, name_of, pod_of, violations
from trainer import run
from trainer.cluster import pushing
from trainer.commands import settings as job_settings
from trainer.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
OVERLAYS = sorted(path.name for path in (ROOT / "overlays").iterdir() if path.is_dir())
EXAMPLES = sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("examples/*/kustomization.yaml"))
COMBINATIONS = [
    names for count in range(1, len(OVERLAYS) + 1) for names in itertools.combinations(OVERLAYS, count)
]
# Those of operators that the cluster must have: their schemas are not Kubernetes' own.
FOREIGN = {"monitoring.coreos.com/v1"}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@cache
def rendered(directory: Path) -> list[Document]:
    done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def combined(names: Sequence[str], directory: Path) -> list[Document]:
    """Render the base with several overlays' components, as docs/operations.md says."""
    directory.mkdir()
    up = Path(os.path.relpath(ROOT, directory.resolve()))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(up / "k8s")],
        "components": [str(up / "overlays" / name / "component") for name in names],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return rendered(directory)


@cache  # most objects are the same in all combinations
def validate(document: str) -> None:
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(json.loads(document), version, strict=True)


def check(documents: list[Document]) -> None:
    names = [name_of(document) for document in documents]
    assert len(names) == len(set(names))
    for document in documents:
        if document["apiVersion"] not in FOREIGN:
            validate(json.dumps(document))
        assert list(violations(document)) == [], name_of(document)
    # What is mounted or named is there; Secrets are the user's.
    for document in documents:
        pod = pod_of(document)
        if pod is None:
            continue
        assert f"ServiceAccount/{pod['serviceAccountName']}" in names
        for one in [*pod.get("initContainers", []), *pod["containers"]]:
            known: list[str] = []  # a variable can be made of those before it only
            for variable in one.get("env", []):
                assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= set(known)
                known.append(variable["name"])
            assert set(re.findall(r"\$\((\w+)\)", " ".join(one.get("args", [])))) <= set(known)
        for volume in pod.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in names
            for source in volume.get("projected", {}).get("sources", []):
                reference = source["configMap"]
                assert reference.get("optional") or f"ConfigMap/{reference['name']}" in names


@pytest.mark.parametrize("name", [*(f"overlays/{name}" for name in OVERLAYS), *EXAMPLES])
def test_each_overlay_is_valid_and_so_are_its_settings(name: str, tmp_path: Path) -> None:
    documents = rendered(ROOT / name)
    check(documents)
    settings = tmp_path / "train.toml"
    settings.write_text(one(documents, "ConfigMap/classifier-training")["data"]["train.toml"])
    job_settings.resolve({"data": Path("/data"), "model_dir": Path("/models")}, settings)


@pytest.mark.parametrize("names", [names for names in COMBINATIONS if len(names) > 1], ids="+".join)
def test_each_combination_is_valid(names: Sequence[str], tmp_path: Path) -> None:
    check(combined(names, tmp_path / "combined"))


def documented(directory: Path) -> list[list[Document]]:
    """Render what docs/operations.md writes: its kustomization, and that with each of the additions."""
    for name in ("k8s", "overlays"):
        shutil.copytree(ROOT / name, directory / name)
    text = (ROOT / "docs" / "operations.md").read_text()
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", text, re.M | re.S)
    mine, *additions = (yaml.safe_load(textwrap.dedent(block)) for _, block in blocks)
    results = []
    for number, addition in enumerate([{}, *additions]):
        (directory / f"mine-{number}").mkdir()
        merged = {
            key: value + addition.get(key, []) for key, value in mine.items() if isinstance(value, list)
        }
        assert set(addition) <= set(merged)
        text = yaml.safe_dump({**mine, **merged})
        (directory / f"mine-{number}" / "kustomization.yaml").write_text(text)
        results.append(rendered(directory / f"mine-{number}"))
    return results


def test_what_operations_writes_is_valid_and_takes_the_images_that_it_pushes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    pushed = set(re.findall(r"docker push (\S+)", text))
    assert set(re.findall(r"docker build .* -t (\S+) \.", text)) == pushed
    base, with_fetch, with_label = documented(tmp_path)
    for documents in (base, with_fetch, with_label):
        check(documents)
        pods = [pod for pod in map(pod_of, documents) if pod]
        assert {one["image"] for pod in pods for one in pod["containers"]} == pushed
        assert {document["metadata"]["namespace"] for document in documents} == {"ml"}
    for claim in ("data", "models"):
        assert one(base, f"PersistentVolumeClaim/{claim}")["spec"]["storageClassName"] == "shared-nfs"
    job = one(with_fetch, "Job/train-classifier")["spec"]["template"]["spec"]
    assert job["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "pictures-s3"}}]
    assert one(with_fetch, "ConfigMap/classifier-data-source")["data"]["url"].startswith("s3://pictures/")
    assert "--label=stable" in container(one(with_label, "Deployment/classifier-gateway"))["args"]


def test_all_but_the_job_can_be_applied_first_and_push_data_has_what_it_needs(tmp_path: Path) -> None:
    """By the label with which the docs leave it out."""
    (selector,) = set(re.findall(r"kubectl apply .* --selector (\S+)", (ROOT / "README.md").read_text()))
    key, _, value = selector.partition("!=")
    for documents in (rendered(ROOT / "k8s"), combined(OVERLAYS, tmp_path / "combined")):
        applied = [one for one in documents if one["metadata"].get("labels", {}).get(key) != value]
        assert [name_of(one) for one in documents if one not in applied] == ["Job/train-classifier"]
        pod = pushing._manifest("push-data-1", "data", "image")["spec"]
        names = {name_of(one) for one in applied}
        assert {f"ServiceAccount/{pod['serviceAccountName']}", "PersistentVolumeClaim/data"} <= names


def one(documents: list[Document], name: str) -> Document:
    (document,) = [document for document in documents if name_of(document) == name]
    return document


def container(document: Document) -> Document:
    pod = pod_of(document)
    assert pod is not None
    return dict(pod["containers"][0])


def test_what_the_suite_for_real_clusters_applies_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as can be said without one."""
    monkeypatch.setenv("E2E_ACCESS_MODE", "ReadWriteOnce")
    monkeypatch.setattr(cluster, "kubectl", lambda *_: '{"items": []}')
    monkeypatch.setitem(cluster.IMAGES, "train", "registry.example.com:5000/team/train:1")
    monkeypatch.setitem(cluster.IMAGES, "serve", "serve@sha256:" + "0" * 64)
    namespace = cluster.Namespace()
    try:
        for name, components in (("base", ()), ("workers", ("multi-node",))):
            suspend = cluster.patch("batch/v1", "Job", "train-classifier", {"spec": {"suspend": True}})
            documents = rendered(namespace.overlay(name, {"epochs": 3}, components, (suspend,)))
            for document in documents:
                validate(json.dumps(document))
                assert document["metadata"]["namespace"] == namespace.name
            job = one(documents, "Job/train-classifier")
            assert job["spec"]["suspend"] is True
            assert container(job)["image"] == "registry.example.com:5000/team/train:1"
            assert "nvidia.com/gpu" not in container(job)["resources"]["limits"]
            assert container(one(documents, "Deployment/classifier"))["image"].startswith("serve@sha256:")
            settings = one(documents, "ConfigMap/classifier-training")["data"]["train.toml"]
            assert "epochs = 3\n" in settings and "gpus" not in settings
            claim = one(documents, "PersistentVolumeClaim/models")
            assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    finally:
        shutil.rmtree(namespace.directory)


def test_kind_needs_no_gpu_and_no_provisioner() -> None:
    documents = rendered(ROOT / "overlays" / "kind")
    assert "nvidia" not in yaml.safe_dump_all(documents)
    for claim in ("data", "models"):
        spec = one(documents, f"PersistentVolumeClaim/{claim}")["spec"]
        volume = one(documents, f"PersistentVolume/{spec['volumeName']}")["spec"]
        assert volume["accessModes"] == spec["accessModes"]
        assert volume["storageClassName"] == spec["storageClassName"] == ""
        mounts = yaml.safe_load((ROOT / "overlays/kind/kind-config.yaml").read_text())["nodes"][0]
        assert volume["hostPath"]["path"].startswith(mounts["extraMounts"][0]["containerPath"] + "/")


def test_multi_node_tells_the_workers_how_many_they_are_and_where() -> None:
    documents = rendered(ROOT / "overlays" / "multi-node")
    job = one(documents, "Job/train-classifier")["spec"]
    env = {entry["name"]: entry.get("value") for entry in container({"kind": "Job", "spec": job})["env"]}
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == int(env["WORKERS"])
    service = one(documents, f"Service/{env['WORKER_SERVICE']}")["spec"]
    assert job["template"]["spec"]["subdomain"] == env["WORKER_SERVICE"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"].items() <= job["template"]["metadata"]["labels"].items()


def test_gpu_serving_asks_for_a_gpu_and_batches_for_it() -> None:
    documents = rendered(ROOT / "overlays" / "gpu-serving")
    server = container(one(documents, "Deployment/classifier"))
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert server["image"].endswith("-gpu")
    batching = one(documents, "ConfigMap/classifier-serving")["data"]["batching.config"]
    assert "batch_timeout_micros { value: 2000 }" in batching


def test_fetch_trains_on_what_it_has_fetched_and_a_wrong_archive_fails_at_once() -> None:
    job = one(rendered(ROOT / "overlays" / "fetch"), "Job/train-classifier")["spec"]
    (fetching,) = job["template"]["spec"]["initContainers"]
    env = {entry["name"]: entry.get("value") for entry in container({"kind": "Job", "spec": job})["env"]}
    assert fetching["args"][:3] == ["fetch-data", "$(DATA_URL)", env["DATA"]]
    rules = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    codes = {rule["containerName"]: rule["values"] for rule in rules}
    assert codes["fetch-data"] == [ConfigError.exit_code, DataError.exit_code]


def test_kueue_admits_the_job() -> None:
    job = one(rendered(ROOT / "overlays" / "kueue"), "Job/train-classifier")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "classifier"
    assert job["spec"]["suspend"] is True


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    documents = rendered(ROOT / "overlays" / "monitoring")
    dashboard = json.loads(one(documents, "ConfigMap/classifier-dashboard")["data"]["dashboard.json"])
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    known = (
        ":tensorflow:serving:request_count",
        ":tensorflow:serving:request_latency_bucket",
        "gateway_request_seconds_count",
        "gateway_request_seconds_bucket",
        "gateway_images_total",
    )
    for name in known:
        assert any(name in expression for expression in expressions)
    assert all(any(name in expression for name in known) for expression in expressions)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Secret → the folder that a pod sees, made by the overlay's own script."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    script = ROOT / "overlays" / "tls" / "make-secrets.sh"
    done = subprocess.run([script, "ml"], capture_output=True, text=True, check=True)
    folders = {}
    for document in yaml.safe_load_all(done.stdout):
        kubernetes_validate.validate(document, "1.30", strict=True)
        folder = folders[document["metadata"]["name"]] = tmp_path_factory.mktemp("secret")
        for name, content in document["data"].items():
            (folder / name).write_bytes(base64.b64decode(content))
    return folders


def test_with_tls_only_holders_of_the_clients_secret_are_answered(
    secrets: dict[str, Path], published: run.Published, image_tree: Path
) -> None:
    documents = rendered(ROOT / "overlays" / "tls")
    (flag,) = [
        value
        for value in container(one(documents, "Deployment/classifier"))["args"]
        if value.startswith("--ssl")
    ]
    config = secrets["classifier-serving-tls"] / Path(flag.partition("=")[2]).name
    gateway = container(one(documents, "Deployment/classifier-gateway"))["args"]
    files = {
        value.partition("=")[0][2:].replace("-", "_"): secrets["classifier-client-tls"]
        / Path(value.partition("=")[2]).name
        for value in gateway
        if value.startswith(("--root-certificates=", "--certificate-chain=", "--private-key="))
    }
    assert len(files) == 3
    assert "--server-name=classifier" in gateway
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    server = [sys.executable, "-m", "local_server", f"--port={port}", f"--ssl_config_file={config}"]
    server += ["--model_name=tiny", f"--model_base_path={published.path.parent}"]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not opened(port):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            picture = next(image_tree.glob("test/moon/*"))
            answer: dict[str, Any] = {"model": "tiny", "timeout_s": 30}
            with Client(f"localhost:{port}", tls=Tls(**files, server_name="classifier"), **answer) as client:
                assert client.classify([picture])[0].version == 1
            answer["timeout_s"] = 3
            no_certificate = Tls(root_certificates=files["root_certificates"], server_name="classifier")
            for tls in (no_certificate, None):
                with (
                    Client(f"localhost:{port}", tls=tls, **answer) as client,
                    pytest.raises(ServingError, match="UNAVAILABLE|DEADLINE_EXCEEDED"),
                ):
                    client.classify([picture])
        finally:
            process.terminate()


def opened(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
