"""From the first apply to deletion on a real cluster. The tests run in order and build on each other."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving_client import Client
from tests.e2e.cluster import Namespace, kubectl, wait_for
from tests.kubernetes_objects import ROOT, render
from trainer.errors import NotGoodEnoughError

# Calls the model without a pause, until version `until` has answered 50 calls or the time is up. Prints the
# number of answers by version, and the errors.
LOAD = """
import collections, json, sys, time
from serving_client import Client, ServingError
name, until, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
picture = open("/data/test/moon/000.jpg", "rb").read()
versions, failed, end = collections.Counter(), [], time.monotonic() + seconds
with Client(name, model="classifier", timeout_s=30) as client:
    print("calling", flush=True)
    while time.monotonic() < end and (not until or versions[until] < 50):
        try:
            versions[client.classify([picture])[0].version] += 1
        except ServingError as error:
            failed.append(str(error))
print(json.dumps({"versions": versions, "failed": failed}))
"""
PODS = "dns:///classifier-pods:8500"


def load(namespace: Namespace, name: str = PODS, until: int = 0, seconds: float = 600) -> Any:
    return namespace.caller(LOAD, name, until, seconds)


def wait_for_calls(namespace: Namespace, pod: str) -> None:
    def started() -> bool | None:
        running = namespace.get("pod", pod)["status"]["phase"] == "Running"
        return True if running and "calling" in namespace.kubectl("logs", pod) else None

    wait_for(started, f"{pod} calls the model")


def outcome(namespace: Namespace, pod: str, timeout_s: float = 700) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(namespace.printed_by(pod, timeout_s).splitlines()[-1])
    return result


@pytest.fixture(scope="session")
def overlay(deployed: Namespace) -> Path:
    """The directory from which runs are submitted."""
    return deployed.write_kustomization("runs", {})


def submit(namespace: Namespace, overlay: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return namespace.trainer("submit", f"--overlay={overlay}", "--follow", *flags)


def test_without_a_model_the_server_waits_and_logs_its_folder(deployed: Namespace) -> None:
    def waiting() -> str | None:
        for pod in deployed.pods("serving"):
            for status in pod["status"].get("initContainerStatuses", []):
                if "running" in status["state"]:
                    name = pod["metadata"]["name"]
                    return deployed.kubectl("logs", name, "--container=wait-for-model") or None
        return None

    assert "/models/classifier" in wait_for(waiting, "the server waits")
    assert deployed.get("deployment", "classifier")["status"].get("readyReplicas", 0) == 0


def test_pod_security_rejects_no_pod(deployed: Namespace) -> None:
    events = json.loads(deployed.kubectl("get", "events", "--output=json"))["items"]
    assert [event["message"] for event in events if "PodSecurity" in event.get("message", "")] == []


def test_the_job_completes_and_the_server_becomes_ready(deployed: Namespace) -> None:
    deployed.kubectl("patch", "job", "train-classifier", "--patch", '{"spec": {"suspend": false}}')
    deployed.kubectl(
        "wait", "job/train-classifier", "--for=condition=Complete", "--timeout=900s", timeout_s=920
    )
    assert "Published /models/classifier/1" in deployed.kubectl("logs", "job/train-classifier")
    for deployment in ("classifier", "classifier-gateway"):
        deployed.rollout(deployment)


def test_applying_twice_is_harmless(deployed: Namespace) -> None:
    """Also one object at a time, in reverse order."""
    before = deployed.get("job", "train-classifier")["metadata"]["uid"]
    for document in reversed(render(deployed.directory / "base")):
        document.get("spec", {}).pop("suspend", None)  # an earlier test has changed it
        kubectl("apply", "--filename=-", stdin=yaml.safe_dump(document))
    job = deployed.get("job", "train-classifier")
    assert job["metadata"]["uid"] == before
    assert job["status"]["succeeded"] == 1
    for deployment in ("classifier", "classifier-gateway"):
        deployed.rollout(deployment)


def test_a_pod_classifies_through_the_cluster_ip(deployed: Namespace) -> None:
    with load(deployed, "classifier:8500", until=1, seconds=120) as pod:
        found = outcome(deployed, pod)
    assert found["failed"] == []
    assert found["versions"] == {"1": 50}


def test_port_forward_reaches_the_server_and_the_gateway(deployed: Namespace, pictures: Path) -> None:
    files = sorted(pictures.glob("test/*/000.jpg"))
    with (
        deployed.forwarded("service/classifier", 8500) as address,
        Client(address, model="classifier", timeout_s=30) as client,
    ):
        predictions = client.classify(files)
    right = sum(one.label == file.parent.name for one, file in zip(predictions, files, strict=True))
    assert right >= len(files) - 1
    with deployed.forwarded("service/classifier-gateway", 80) as address:
        request = urllib.request.Request(
            f"http://{address}/v1/classify", files[0].read_bytes(), method="POST"
        )
        answer = json.load(urllib.request.urlopen(request, timeout=30))
    assert answer["results"][0]["scores"][0]["label"] == predictions[0].label


def test_a_second_version_goes_live_without_a_failed_call(deployed: Namespace, overlay: Path) -> None:
    with load(deployed, until=2, seconds=900) as pod:
        wait_for_calls(deployed, pod)
        done = submit(deployed, overlay, "--set", "seed=1")
        assert done.returncode == 0, done.stderr
        assert "Published /models/classifier/2" in done.stdout
        found = outcome(deployed, pod, 1000)
    assert found["failed"] == []
    assert set(found["versions"]) == {"1", "2"}
    assert found["versions"]["2"] == 50


def test_a_rolling_update_loses_no_call(deployed: Namespace) -> None:
    with load(deployed, seconds=120) as pod:
        wait_for_calls(deployed, pod)
        deployed.kubectl("rollout", "restart", "deployment/classifier")
        deployed.rollout("classifier")
        found = outcome(deployed, pod)
    assert found["failed"] == []


def test_a_worse_model_is_refused_with_the_gates_exit_code(deployed: Namespace, overlay: Path) -> None:
    flags = ("--set", "must_beat_serving=true", "--set", "learning_rate=0.000001", "--set", "epochs=1")
    done = submit(deployed, overlay, *flags)
    assert done.returncode == NotGoodEnoughError.exit_code, done.stdout + done.stderr
    with (
        deployed.forwarded("service/classifier", 8500) as address,
        Client(address, model="classifier") as client,
    ):
        assert client.describe().version == 2


def test_a_run_whose_pod_is_deleted_resumes(deployed: Namespace, overlay: Path) -> None:
    command = deployed.command("submit", f"--overlay={overlay}", "--follow", "--set", "epochs=1000")
    known = {pod["metadata"]["name"] for pod in deployed.pods("training")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        lines: Iterator[str] = iter(process.stdout.readline, "")
        before = next(line for line in lines if re.search(r"^head epoch ", line))
        (pod,) = [
            pod["metadata"]["name"]
            for pod in deployed.pods("training")
            if pod["metadata"]["name"] not in known
        ]
        deployed.kubectl("delete", "pod", pod, "--wait=false")
        rest = "".join(lines)
        assert process.wait(timeout=900) == 0, before + rest
    published = re.findall(r"Published /models/classifier/(\d+)", rest)
    assert published == ["3"]


def test_two_workers_train_together_and_one_publishes(deployed: Namespace) -> None:
    workers = deployed.write_kustomization("workers", {"seed": 2}, ("multi-node",))
    for document in render(workers):  # without the Job, whose template cannot be changed
        if document["metadata"]["name"] in ("train-classifier-workers", "classifier-workers"):
            kubectl("apply", "--filename=-", stdin=yaml.safe_dump(document))
    done = submit(deployed, workers, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Published /models/classifier/(\d+)", done.stdout) == ["4"]


def test_a_label_moves_and_rolls_back(deployed: Namespace) -> None:
    def stable_version() -> int | None:
        try:
            with Client(address, model="classifier", label="stable") as client:
                return client.describe().version
        except Exception:  # not loaded yet
            return None

    with deployed.forwarded("service/classifier", 8500) as address:
        for command, version in ((("promote", 3), 3), (("promote", 4), 4), (("rollback",), 3)):
            done = deployed.trainer(*command)
            assert done.returncode == 0, done.stderr
            # The kubelet updates a mounted ConfigMap within a minute or two.
            wait_for(lambda: True if stable_version() == version else None, f"stable is {version}", 300)  # noqa: B023  # called at once


def test_three_replicas_share_the_load(deployed: Namespace) -> None:
    # The load must not make the autoscaler add more.
    patch = '{"spec": {"minReplicas": 3, "maxReplicas": 3}}'
    deployed.kubectl("patch", "horizontalpodautoscaler", "classifier", "--patch", patch)
    deployed.kubectl("scale", "deployment/classifier", "--replicas=3")

    def three_ready() -> list[str] | None:
        status = deployed.get("deployment", "classifier")["status"]
        pods = [pod["metadata"]["name"] for pod in deployed.pods("serving")]
        return pods if status.get("readyReplicas") == len(pods) == 3 else None

    pods = wait_for(three_ready, "three pods are Ready")
    time.sleep(10)  # the cluster's DNS caches addresses for some seconds
    before = {pod: calls(deployed, pod) for pod in pods}
    with load(deployed, seconds=60) as caller:
        found = outcome(deployed, caller)
    assert found["failed"] == []
    shares = [calls(deployed, pod) - before[pod] for pod in pods]
    assert min(shares) > 0.5 * max(shares), shares


def calls(namespace: Namespace, pod: str) -> float:
    """Return how many calls a pod has answered, from its metrics."""
    with namespace.forwarded(f"pod/{pod}", 8501) as address:
        url = f"http://{address}/monitoring/prometheus/metrics"
        text = urllib.request.urlopen(url, timeout=30).read().decode()
    return sum(map(float, re.findall(r"^:tensorflow:serving:request_count\{.*\} (\S+)$", text, re.MULTILINE)))


def test_deleting_the_deployment_keeps_the_claims(deployed: Namespace) -> None:
    """With the command of docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^kubectl (delete .*) --namespace ml$", text, re.MULTILINE)
    deployed.kubectl(*shlex.split(command), timeout_s=300)
    claims = json.loads(deployed.kubectl("get", "persistentvolumeclaims", "--output=json"))["items"]
    assert {claim["metadata"]["name"]: claim["status"]["phase"] for claim in claims} == {
        "data": "Bound",
        "models": "Bound",
    }
    names = deployed.kubectl("get", "deployments,services,jobs", "--output=name").split()
    assert not {"deployment.apps/classifier", "deployment.apps/classifier-gateway"} & set(names)
