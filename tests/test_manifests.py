"""The manifests of k8s/ are valid, agree with each other, and use flags that the programs accept."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server import configuration
from local_server import flags as server_flags
from serving_client import cli as client_cli
from serving_client.gateway import app, server
from tests.kubernetes_objects import (
    BASE,
    BASE_FILES,
    ROOT,
    Document,
    find,
    first_container,
    name_of,
    needs_kubectl,
    pod_spec,
    render,
)
from tests.policy import violations
from trainer import __main__ as trainer_cli
from trainer import errors
from trainer.cluster import config_map, model_config
from trainer.commands import settings
from trainer.config import TrainConfig
from trainer.export.warmup import warmup_batch_sizes

TRAINING = pod_spec(find(BASE, "Job/train-classifier"))
SERVING = pod_spec(find(BASE, "Deployment/classifier"))
GATEWAY = pod_spec(find(BASE, "Deployment/classifier-gateway"))
CONFIG: dict[str, str] = find(BASE, "ConfigMap/classifier-serving")["data"]


def settings_of_the_job() -> TrainConfig:
    """Return the settings that the pod resolves from its ConfigMap's TOML and its flags."""
    container = TRAINING["containers"][0]
    variables = {entry["name"]: entry.get("value", "1") for entry in container["env"]}
    args = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], text) for text in container["args"]]
    arguments = trainer_cli.build_parser().parse_args(args)
    with tempfile.TemporaryDirectory() as directory:
        assert arguments.config == Path("/config/train.toml")
        arguments.config = Path(directory) / arguments.config.name
        arguments.config.write_text(find(BASE, "ConfigMap/classifier-training")["data"]["train.toml"])
        return settings.from_arguments(arguments)


@pytest.mark.parametrize("image", ["train", "gateway"])
def test_an_image_holds_no_models_that_lie_beside_the_code(image: str) -> None:
    """`make demo` and the README train into folders of the checkout from which the images are built."""
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / f"Dockerfile.{image}").read_text(), re.M)
    sources = {source for line in copied for source in line.split()}
    assert sources == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        *("trainer", "serving_client", "local_server"),
    }


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", BASE, ids=name_of)
def test_every_object_is_valid_against_the_published_schemas(document: Document, version: str) -> None:
    validated_against = kubernetes_validate.validate(document, version, strict=True)  # raises
    assert version.startswith(validated_against) or validated_against.startswith(version)


def test_apply_f_and_apply_k_read_the_same_files() -> None:
    kustomization = yaml.safe_load((ROOT / "k8s" / "Kustomization").read_text())
    assert sorted(kustomization["resources"]) == [file.name for file in BASE_FILES]


@needs_kubectl
def test_apply_f_and_apply_k_create_the_same_objects() -> None:
    assert sorted(render(ROOT / "k8s"), key=name_of) == sorted(BASE, key=name_of)


def claims(spec: Document) -> dict[str, str]:
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
        assert find(BASE, f"PersistentVolumeClaim/{claim}")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_deployment_serves_the_model_that_the_job_publishes() -> None:
    training = settings_of_the_job()
    serving = server_flags.build_parser().parse_args(SERVING["containers"][0]["args"])
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
    serving = server_flags.build_parser().parse_args(SERVING["containers"][0]["args"])
    assert serving.allow_version_labels_for_unavailable_models
    assert model_config.labels(
        model_config.promote(CONFIG["models.config"], "classifier", "stable", 2, "file"), "classifier", "file"
    ) == {"stable": 2, "stable-previous": 1, "canary": 1}


@pytest.mark.parametrize("manifest", ["k8s/serving-config.yaml", "components/gpu-serving/batching.yaml"])
def test_the_warm_up_file_runs_every_allowed_batch_size(manifest: str, tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(yaml.safe_load((ROOT / manifest).read_text())["data"][file.name])
    parameters = configuration.read_batching(file)
    assert list(parameters.allowed_batch_sizes) == warmup_batch_sizes(TrainConfig.warmup_batch_size)


def test_prometheus_finds_its_metrics(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text(CONFIG["monitoring.config"])
    assert configuration.read_metrics_path(file) == "/monitoring/prometheus/metrics"


@pytest.mark.parametrize("spec", [TRAINING, SERVING], ids=["training", "serving"])
def test_flags_name_mounted_files_and_promoted_labels_win(spec: Document) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "config"]
    *mapped, defaults, labels = (source["configMap"] for source in volume["projected"]["sources"])
    assert (defaults["name"], labels) == (
        "classifier-serving",
        {"name": "classifier-labels", "optional": True},
    )
    assert (defaults["name"], labels["name"]) == (config_map.DEFAULTS_NAME, config_map.LABELS_NAME)
    named = [
        argument.partition("=")[2] for argument in spec["containers"][0]["args"] if "=/config/" in argument
    ]
    assert named
    files = {file for one in (*mapped, defaults) for file in find(BASE, f"ConfigMap/{one['name']}")["data"]}
    assert {path.removeprefix(mounts["config"] + "/") for path in named} <= files


@pytest.mark.parametrize(
    ("service", "deployment"),
    [
        ("classifier", "classifier"),
        ("classifier-pods", "classifier"),
        ("classifier-gateway", "classifier-gateway"),
    ],
)
def test_the_service_selects_the_deployments_pods_and_their_ports(service: str, deployment: str) -> None:
    spec, pods = find(BASE, f"Service/{service}")["spec"], find(BASE, f"Deployment/{deployment}")["spec"]
    labels = pods["template"]["metadata"]["labels"]
    assert spec["selector"].items() <= labels.items()
    assert pods["selector"]["matchLabels"] == labels
    container = first_container(find(BASE, f"Deployment/{deployment}"))
    named = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in spec["ports"]} <= named


def ports(spec: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}


def test_the_server_listens_on_the_ports_that_the_pod_declares() -> None:
    arguments = server_flags.build_parser().parse_args(SERVING["containers"][0]["args"])
    assert ports(SERVING) == {"grpc": arguments.port, "rest": arguments.rest_api_port}
    assert SERVING["containers"][0]["readinessProbe"]["grpc"]["port"] == arguments.port


def test_the_gateway_calls_all_serving_pods_for_the_served_model() -> None:
    container = GATEWAY["containers"][0]
    arguments = client_cli.build_parser().parse_args(container["args"])
    headless = find(BASE, "Service/classifier-pods")["spec"]
    assert headless["clusterIP"] == "None"
    assert arguments.server == f"dns:///classifier-pods:{headless['ports'][0]['port']}"
    assert arguments.model == settings_of_the_job().name
    assert ports(GATEWAY) == {"http": arguments.port}
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
    assert container["readinessProbe"]["timeoutSeconds"] > app.READY_TIMEOUT_S
    before, ours = container["lifecycle"]["preStop"]["sleep"]["seconds"], server.DRAIN_TIMEOUT_S
    assert GATEWAY["terminationGracePeriodSeconds"] > before + ours


def test_the_job_treats_every_exit_code_as_its_error_requires() -> None:
    rules = find(BASE, "Job/train-classifier")["spec"]["podFailurePolicy"]["rules"]
    actions = []
    for rule in rules:
        if codes := rule.get("onExitCodes"):
            assert (codes["containerName"], codes["operator"]) == (TRAINING["containers"][0]["name"], "In")
            actions += [(code, rule["action"]) for code in codes["values"]]
    fails_again = [errors.ConfigError, errors.DataError, errors.DivergedError, errors.NotGoodEnoughError]
    not_its_fault = [errors.WorkerLostError, errors.StoppedError]
    assert sorted(actions) == [
        *((error.exit_code, "FailJob") for error in fails_again),
        *((error.exit_code, "Ignore") for error in not_its_fault),
    ]


def test_every_error_has_its_own_exit_code() -> None:
    family = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.TrainerError)
    ]
    assert len({error.exit_code for error in family}) == len(family)


@pytest.mark.parametrize("document", BASE, ids=name_of)
def test_every_object_follows_the_policy(document: Document) -> None:
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
        pytest.param(lambda pod, first: first["resources"].pop("limits"), "no memory limit", id="limit"),
        pytest.param(lambda pod, first: first.update(image="a/b"), "not pinned", id="no tag"),
        pytest.param(
            lambda pod, first: first.update(image="host:80/b"), "not pinned", id="a port is not a tag"
        ),
        pytest.param(lambda pod, first: first["securityContext"].clear(), "capabilities", id="capabilities"),
        pytest.param(lambda pod, first: pod.pop("automountServiceAccountToken"), "API token", id="token"),
    ],
)
def test_the_policy_finds_a_broken_rule(change: Callable[[Any, Any], object], violation: str) -> None:
    document = copy.deepcopy(find(BASE, "Deployment/classifier-gateway"))
    spec = pod_spec(document)
    change(spec, spec["containers"][0])
    assert any(violation in found for found in violations(document))
