"""The manifests are valid, agree with each other, and hold flags that the programs really take."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server import cli as server_cli
from local_server import configuration
from serving_client import cli as client_cli
from serving_client.gateway import app, command
from tests.policy import name_of, violations
from trainer import __main__ as cli
from trainer import errors
from trainer.cluster import config_map, model_config
from trainer.commands import settings
from trainer.config import TrainConfig
from trainer.export.warmup import warmup_batch_sizes

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "k8s").glob("*.yaml"))
OBJECTS: list[dict[str, Any]] = [
    document for file in FILES for document in yaml.safe_load_all(file.read_text())
]


def by_name(name: str) -> dict[str, Any]:
    (document,) = [document for document in OBJECTS if name_of(document) == name]
    return document


def pod(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]["template"]["spec"]
    return spec


TRAINING = pod(by_name("Job/train-classifier"))
SERVING = pod(by_name("Deployment/classifier"))
GATEWAY = pod(by_name("Deployment/classifier-gateway"))


def settings_of_the_job() -> TrainConfig:
    """What the pod resolves: the ConfigMap's TOML, and the flags with the variables that they name."""
    container = TRAINING["containers"][0]
    variables = {entry["name"]: entry.get("value", "1") for entry in container["env"]}
    args = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], text) for text in container["args"]]
    arguments = cli.build_parser().parse_args(args)
    with tempfile.TemporaryDirectory() as directory:
        assert arguments.config == Path("/config/train.toml")
        arguments.config = Path(directory) / arguments.config.name
        arguments.config.write_text(by_name("ConfigMap/classifier-training")["data"]["train.toml"])
        return settings.from_arguments(arguments)


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", OBJECTS, ids=name_of)
def test_valid_against_the_published_schemas(document: dict[str, Any], version: str) -> None:
    validated_against = kubernetes_validate.validate(document, version, strict=True)  # raises
    assert version.startswith(validated_against) or validated_against.startswith(version)


def test_apply_f_and_apply_k_mean_the_same_files() -> None:
    kustomization = yaml.safe_load((ROOT / "k8s" / "Kustomization").read_text())
    assert sorted(kustomization["resources"]) == [file.name for file in FILES]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_every_object() -> None:
    done = subprocess.run(["kubectl", "kustomize", ROOT / "k8s"], check=True, capture_output=True, text=True)
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert sorted(map(name_of, rendered)) == sorted(map(name_of, OBJECTS))


def claims(spec: dict[str, Any]) -> dict[str, str]:
    """Return claim → mount path."""
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    return {
        volume["persistentVolumeClaim"]["claimName"]: mounts[volume["name"]]
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }


def test_job_and_deployment_share_one_claim_that_exists() -> None:
    assert claims(TRAINING)["models"] == claims(SERVING)["models"] == "/models"
    for claim in {**claims(TRAINING), **claims(SERVING)}:
        assert by_name(f"PersistentVolumeClaim/{claim}")["spec"]["accessModes"] == ["ReadWriteMany"]


CONFIG: dict[str, str] = by_name("ConfigMap/classifier-serving")["data"]


def test_what_the_job_publishes_is_what_the_deployment_serves() -> None:
    training = settings_of_the_job()
    serving = server_cli.build_parser().parse_args(SERVING["containers"][0]["args"])
    (model,) = text_format.Parse(CONFIG["models.config"], ModelServerConfig()).model_config_list.config
    assert str(training.model_dir / training.name) == model.base_path
    assert training.name == model.name
    assert training.model_config == serving.model_config_file
    assert training.data == Path(claims(TRAINING)["data"])
    assert serving.enable_grpc_healthcheck_service


def test_the_model_config_keeps_all_versions_and_has_both_labels() -> None:
    (model,) = text_format.Parse(CONFIG["models.config"], ModelServerConfig()).model_config_list.config
    assert model.model_version_policy.WhichOneof("policy_choice") == "all"
    assert dict(model.version_labels) == {"stable": 1, "canary": 1}
    serving = server_cli.build_parser().parse_args(SERVING["containers"][0]["args"])
    assert serving.allow_version_labels_for_unavailable_models
    assert model_config.labels(
        model_config.promote(CONFIG["models.config"], "classifier", "stable", 2, "file"), "classifier", "file"
    ) == {"stable": 2, "stable-previous": 1, "canary": 1}


@pytest.mark.parametrize(
    "manifest", ["k8s/serving-config.yaml", "overlays/gpu-serving/component/batching.yaml"]
)
def test_every_allowed_batch_size_has_been_run_by_the_warm_up_file(manifest: str, tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(yaml.safe_load((ROOT / manifest).read_text())["data"][file.name])
    parameters = configuration.read_batching(file)
    assert list(parameters.allowed_batch_sizes) == warmup_batch_sizes(TrainConfig.warmup_batch_size)


def test_prometheus_finds_its_metrics(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text(CONFIG["monitoring.config"])
    assert configuration.read_metrics_path(file) == "/monitoring/prometheus/metrics"


@pytest.mark.parametrize("spec", [TRAINING, SERVING], ids=["training", "serving"])
def test_the_files_that_the_flags_name_are_there_and_promoted_labels_win(spec: dict[str, Any]) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "config"]
    *settings, defaults, labels = (source["configMap"] for source in volume["projected"]["sources"])
    assert (defaults["name"], labels) == (
        "classifier-serving",
        {"name": "classifier-labels", "optional": True},
    )
    assert (defaults["name"], labels["name"]) == (config_map._DEFAULTS, config_map._LABELS)
    named = [
        argument.partition("=")[2] for argument in spec["containers"][0]["args"] if "=/config/" in argument
    ]
    assert named
    files = {file for one in (*settings, defaults) for file in by_name(f"ConfigMap/{one['name']}")["data"]}
    assert {path.removeprefix(mounts["config"] + "/") for path in named} <= files


@pytest.mark.parametrize(
    ("service", "deployment"),
    [
        ("classifier", "classifier"),
        ("classifier-pods", "classifier"),
        ("classifier-gateway", "classifier-gateway"),
    ],
)
def test_the_service_finds_the_deployments_pods(service: str, deployment: str) -> None:
    spec, pods = by_name(f"Service/{service}")["spec"], by_name(f"Deployment/{deployment}")["spec"]
    labels = pods["template"]["metadata"]["labels"]
    assert spec["selector"].items() <= labels.items()
    assert pods["selector"]["matchLabels"] == labels
    named = {port["name"] for port in pod(by_name(f"Deployment/{deployment}"))["containers"][0]["ports"]}
    assert {port["targetPort"] for port in spec["ports"]} <= named


def ports(spec: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}


def test_the_server_listens_where_it_is_asked() -> None:
    arguments = server_cli.build_parser().parse_args(SERVING["containers"][0]["args"])
    assert ports(SERVING) == {"grpc": arguments.port, "rest": arguments.rest_api_port}
    assert SERVING["containers"][0]["readinessProbe"]["grpc"]["port"] == arguments.port


def test_the_gateway_asks_all_serving_pods_for_the_model_that_is_served() -> None:
    container = GATEWAY["containers"][0]
    arguments = client_cli.build_parser().parse_args(container["args"])
    headless = by_name("Service/classifier-pods")["spec"]
    assert headless["clusterIP"] == "None"
    assert arguments.server == f"dns:///classifier-pods:{headless['ports'][0]['port']}"
    assert arguments.model == settings_of_the_job().name
    assert ports(GATEWAY) == {"http": arguments.port}
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
    assert container["readinessProbe"]["timeoutSeconds"] > app._READY_TIMEOUT_S
    before, ours = container["lifecycle"]["preStop"]["sleep"]["seconds"], command._DRAIN_S
    assert GATEWAY["terminationGracePeriodSeconds"] > before + ours


def test_exit_codes_end_the_job_or_do_not_count() -> None:
    rules = by_name("Job/train-classifier")["spec"]["podFailurePolicy"]["rules"]
    codes = {rule["action"]: rule["onExitCodes"] for rule in rules if "onExitCodes" in rule}
    would_fail_again = [errors.ConfigError, errors.DataError, errors.DivergedError, errors.NotGoodEnoughError]
    assert codes["FailJob"]["values"] == [error.exit_code for error in would_fail_again]
    not_its_fault = [errors.WorkerLostError, errors.StoppedError]
    assert codes["Ignore"]["values"] == [error.exit_code for error in not_its_fault]
    for rule in codes.values():
        assert rule["containerName"] == TRAINING["containers"][0]["name"]


@pytest.mark.parametrize("document", OBJECTS, ids=name_of)
def test_every_object_holds_to_the_policy(document: dict[str, Any]) -> None:
    assert list(violations(document)) == []


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        pytest.param(lambda pod, first: pod.pop("securityContext"), "may run as root", id="root"),
        pytest.param(lambda pod, first: pod.update(hostNetwork=True), "node's namespaces", id="network"),
        pytest.param(
            lambda pod, first: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
            "volume x is",
            id="host path",
        ),
        pytest.param(lambda pod, first: first.pop("livenessProbe"), "no livenessProbe", id="probe"),
        pytest.param(lambda pod, first: first["resources"].pop("limits"), "no limit of memory", id="limit"),
        pytest.param(lambda pod, first: first.update(image="a/b"), "not pinned", id="no tag"),
        pytest.param(lambda pod, first: first.update(image="host:80/b"), "not pinned", id="a port is no tag"),
        pytest.param(lambda pod, first: first["securityContext"].clear(), "capabilities", id="capabilities"),
        pytest.param(lambda pod, first: pod.pop("automountServiceAccountToken"), "token", id="token"),
    ],
)
def test_the_policy_finds(change: Callable[[Any, Any], object], violation: str) -> None:
    document = copy.deepcopy(by_name("Deployment/classifier-gateway"))
    spec = pod(document)
    change(spec, spec["containers"][0])
    assert any(violation in found for found in violations(document))
