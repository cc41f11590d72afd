"""The kustomizations of components/, overlays/, examples/ and docs/ render to valid objects."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from local_server import configuration
from local_server import flags as server_flags
from local_server.grpc_api import build_server
from local_server.models import Models
from serving_client import Client, DeadlineExceeded, ServerUnavailable, Tls
from serving_client import cli as client_cli
from tests.e2e import cluster
from tests.kubernetes_objects import (
    COMPONENTS,
    ROOT,
    Document,
    environment,
    find,
    first_container,
    name_of,
    needs_kubectl,
    pod_spec,
    read,
    render,
    write_kustomization,
)
from tests.policy import violations
from trainer import run
from trainer.commands.settings import resolve
from trainer.errors import ConfigError, DataError

# With these, every three components occur in each combination of present and absent.
SETS = [
    *([name] for name in COMPONENTS),
    *([other for other in COMPONENTS if other != name] for name in COMPONENTS),
    COMPONENTS,
    COMPONENTS[::-1],
]
COMPLETE = ["overlays/kind", "examples/fine_tune_on_two_nodes"]
# Their schemas belong to operators in the cluster, not to Kubernetes.
CUSTOM_APIS = {"monitoring.coreos.com/v1"}

Combine = Callable[..., list[Document]]

pytestmark = needs_kubectl


@pytest.fixture(scope="module")
def combine(tmp_path_factory: pytest.TempPathFactory) -> Combine:
    """Render a user's kustomization: combine(NAME, ..., base="k8s")."""

    @cache
    def rendered(*names: str, base: str = "k8s") -> list[Document]:
        directory = tmp_path_factory.mktemp("kustomization") / "mine"
        write_kustomization(directory, base, names)
        return render(directory)

    return rendered


def alone_and_together(name: str) -> pytest.MarkDecorator:
    """Run a test on one component and on all, in both orders, so that none undoes what another adds."""
    return pytest.mark.parametrize(
        "names", [[name], COMPONENTS, COMPONENTS[::-1]], ids=["alone", "together", "reversed"]
    )


@cache  # most objects are the same in all sets
def validate(document: str) -> None:
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(json.loads(document), version, strict=True)


def check(documents: list[Document]) -> None:
    names = [name_of(document) for document in documents]
    assert len(names) == len(set(names))
    for document in documents:
        if document["apiVersion"] not in CUSTOM_APIS:
            validate(json.dumps(document))
        assert list(violations(document)) == [], name_of(document)
        if pod := pod_spec(document):
            check_references(pod, names)
            check_variables(pod)


def check_references(pod: Document, names: list[str]) -> None:
    """Check that service account, claims and ConfigMaps exist. The user creates the Secrets."""
    assert f"ServiceAccount/{pod['serviceAccountName']}" in names
    for volume in pod.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in names
        for source in volume.get("projected", {}).get("sources", []):
            reference = source["configMap"]
            assert reference.get("optional") or f"ConfigMap/{reference['name']}" in names


def check_variables(pod: Document) -> None:
    """Check that each $(VARIABLE) is defined; a variable may refer only to those before it."""
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        known: set[str] = set()
        for name, value in environment(container).items():
            assert set(re.findall(r"\$\((\w+)\)", value or "")) <= known
            known.add(name)
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", [])))) <= known


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_each_set_of_components_is_valid(names: Sequence[str], combine: Combine) -> None:
    check(combine(*names))


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_says_how_to_use_it(name: str) -> None:
    head = (ROOT / "components" / name / "kustomization.yaml").read_text().partition("apiVersion:")[0]
    assert f"components: [../components/{name}]" in head.replace("\n# ", " ")


@pytest.mark.parametrize("directory", COMPLETE)
def test_each_complete_kustomization_is_valid_and_so_are_its_settings(directory: str, tmp_path: Path) -> None:
    documents = render(ROOT / directory)
    check(documents)
    settings = tmp_path / "train.toml"
    settings.write_text(find(documents, "ConfigMap/classifier-training")["data"]["train.toml"])
    resolve({"data": Path("/data"), "model_dir": Path("/models")}, settings)


def test_kind_takes_all_components(combine: Combine) -> None:
    check(combine(*COMPONENTS, base="overlays/kind"))


def documented(directory: Path) -> list[list[Document]]:
    """Render the kustomization of docs/operations.md, by itself and with each of the additions."""
    for name in ("k8s", "components"):
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
        results.append(render(directory / f"mine-{number}"))
    return results


def test_the_kustomizations_of_the_docs_are_valid_and_use_the_images_that_they_push(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    pushed = set(re.findall(r"docker push (\S+)", text))
    assert set(re.findall(r"docker build .* -t (\S+) \.", text)) == pushed
    base, with_fetch, with_label = documented(tmp_path)
    for documents in (base, with_fetch, with_label):
        check(documents)
        pods = [pod for pod in map(pod_spec, documents) if pod]
        assert {one["image"] for pod in pods for one in pod["containers"]} == pushed
        assert {document["metadata"]["namespace"] for document in documents} == {"ml"}
    for claim in ("data", "models"):
        assert find(base, f"PersistentVolumeClaim/{claim}")["spec"]["storageClassName"] == "shared-nfs"
    job = find(with_fetch, "Job/train-classifier")["spec"]["template"]["spec"]
    assert job["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "pictures-s3"}}]
    assert find(with_fetch, "ConfigMap/classifier-data-source")["data"]["url"].startswith("s3://pictures/")
    assert "--label=stable" in first_container(find(with_label, "Deployment/classifier-gateway"))["args"]


def test_the_readmes_selector_leaves_out_only_the_job(combine: Combine) -> None:
    (selector,) = set(re.findall(r"kubectl apply .* --selector (\S+)", (ROOT / "README.md").read_text()))
    key, _, value = selector.partition("!=")
    for documents in (combine(), combine(*COMPONENTS)):
        excluded = [one for one in documents if one["metadata"].get("labels", {}).get(key) == value]
        assert [name_of(one) for one in excluded] == ["Job/train-classifier"]


def test_the_kustomizations_of_the_cluster_suite_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2E_ACCESS_MODE", "ReadWriteOnce")
    monkeypatch.setattr(cluster, "kubectl", lambda *_: '{"items": []}')
    monkeypatch.setitem(cluster.IMAGES, "train", "registry.example.com:5000/team/train:1")
    monkeypatch.setitem(cluster.IMAGES, "serve", "serve@sha256:" + "0" * 64)
    namespace = cluster.Namespace()
    try:
        for name, components in (("base", ()), ("workers", ("multi-node",))):
            suspend = cluster.patch("batch/v1", "Job", "train-classifier", {"spec": {"suspend": True}})
            documents = render(namespace.write_kustomization(name, {"epochs": 3}, components, (suspend,)))
            for document in documents:
                validate(json.dumps(document))
                assert document["metadata"]["namespace"] == namespace.name
            job = find(documents, "Job/train-classifier")
            assert job["spec"]["suspend"] is True
            assert first_container(job)["image"] == "registry.example.com:5000/team/train:1"
            assert "nvidia.com/gpu" not in first_container(job)["resources"]["limits"]
            serving = first_container(find(documents, "Deployment/classifier"))
            assert serving["image"].startswith("serve@sha256:")
            settings = find(documents, "ConfigMap/classifier-training")["data"]["train.toml"]
            assert "epochs = 3\n" in settings and "gpus" not in settings
            claim = find(documents, "PersistentVolumeClaim/models")
            assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    finally:
        shutil.rmtree(namespace.directory)


def test_kind_needs_no_gpu_and_no_provisioner() -> None:
    documents = render(ROOT / "overlays" / "kind")
    assert "nvidia" not in yaml.safe_dump_all(documents)
    for claim in ("data", "models"):
        spec = find(documents, f"PersistentVolumeClaim/{claim}")["spec"]
        volume = find(documents, f"PersistentVolume/{spec['volumeName']}")["spec"]
        assert volume["accessModes"] == spec["accessModes"]
        assert volume["storageClassName"] == spec["storageClassName"] == ""
        mounts = yaml.safe_load((ROOT / "overlays/kind/kind-config.yaml").read_text())["nodes"][0]
        assert volume["hostPath"]["path"].startswith(mounts["extraMounts"][0]["containerPath"] + "/")


@alone_and_together("multi-node")
def test_multi_node_tells_the_workers_their_number_and_address(names: list[str], combine: Combine) -> None:
    documents = combine(*names)
    job = find(documents, "Job/train-classifier")
    variables = environment(first_container(job))
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert str(spec["completions"]) == str(spec["parallelism"]) == variables["WORKERS"]
    service = find(documents, f"Service/{variables['WORKER_SERVICE']}")["spec"]
    assert spec["template"]["spec"]["subdomain"] == variables["WORKER_SERVICE"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"].items() <= spec["template"]["metadata"]["labels"].items()


@alone_and_together("gpu-serving")
def test_gpu_serving_requests_a_gpu_and_waits_for_batches(
    names: list[str], combine: Combine, tmp_path: Path
) -> None:
    documents = combine(*names)
    server = first_container(find(documents, "Deployment/classifier"))
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert server["image"].endswith("-gpu")
    assert not [one for one in documents if one["kind"] == "HorizontalPodAutoscaler"]
    file = tmp_path / "batching.config"
    file.write_text(find(documents, "ConfigMap/classifier-serving")["data"][file.name])
    assert configuration.read_batching(file).batch_timeout_s == 0.002


@alone_and_together("fetch")
def test_fetch_trains_on_the_fetched_images_and_an_invalid_archive_fails_the_job(
    names: list[str], combine: Combine
) -> None:
    job = find(combine(*names), "Job/train-classifier")
    (fetching,) = job["spec"]["template"]["spec"]["initContainers"]
    assert fetching["args"][:3] == ["fetch-data", "$(DATA_URL)", environment(first_container(job))["DATA"]]
    rules = job["spec"]["podFailurePolicy"]["rules"]
    fails = [rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob"]
    codes = {rule["containerName"]: rule["values"] for rule in fails}
    assert codes["fetch-data"] == [ConfigError.exit_code, DataError.exit_code]


@alone_and_together("kueue")
def test_kueue_admits_the_job(names: list[str], combine: Combine) -> None:
    job = find(combine(*names), "Job/train-classifier")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "classifier"
    assert job["spec"]["suspend"] is True


@alone_and_together("monitoring")
def test_the_dashboard_queries_metrics_that_exist(names: list[str], combine: Combine) -> None:
    dashboard = json.loads(find(combine(*names), "ConfigMap/classifier-dashboard")["data"]["dashboard.json"])
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
    """Secret → the folder that a pod mounts, from the component's script."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    script = ROOT / "components" / "tls" / "make-secrets.sh"
    done = subprocess.run([script, "ml"], capture_output=True, text=True, check=True)
    folders = {}
    for document in read(done.stdout):
        kubernetes_validate.validate(document, "1.30", strict=True)
        folder = folders[document["metadata"]["name"]] = tmp_path_factory.mktemp("secret")
        for name, content in document["data"].items():
            (folder / name).write_bytes(base64.b64decode(content))
    return folders


def mounted(path: object, documents: list[Document], deployment: str, secrets: dict[str, Path]) -> Path:
    """Return the local copy of a file that a pod of the Deployment sees at /tls."""
    volumes = pod_spec(find(documents, f"Deployment/{deployment}"))["volumes"]
    (secret,) = [volume["secret"]["secretName"] for volume in volumes if volume["name"] == "tls"]
    assert Path(str(path)).parent == Path("/tls")
    return secrets[secret] / Path(str(path)).name


@pytest.fixture
def tls_server(combine: Combine, secrets: dict[str, Path], published: run.Published) -> Iterator[str]:
    """The address of a server with the Deployment's TLS configuration and model `tiny`."""
    documents = combine("tls")
    args = first_container(find(documents, "Deployment/classifier"))["args"]
    flags = server_flags.build_parser().parse_args(args)
    file = mounted(flags.ssl_config_file, documents, "classifier", secrets)
    models = Models()
    models.configure(configuration.single_model("tiny", published.path.parent))
    models.poll()
    server, port = build_server(models, "localhost:0", 8, tls=configuration.read_tls(file))
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(grace=5).wait()


def test_with_tls_only_holders_of_the_client_secret_are_answered(
    tls_server: str, combine: Combine, secrets: dict[str, Path], image_tree: Path
) -> None:
    documents = combine("tls")
    gateway = first_container(find(documents, "Deployment/classifier-gateway"))["args"]
    flags = client_cli.build_parser().parse_args(gateway)
    root_certificates, certificate_chain, private_key = (
        mounted(path, documents, "classifier-gateway", secrets)
        for path in (flags.root_certificates, flags.certificate_chain, flags.private_key)
    )
    full = Tls(root_certificates, certificate_chain, private_key, flags.server_name)
    picture = next(image_tree.glob("test/moon/*"))
    with Client(tls_server, model="tiny", timeout_s=30, tls=full) as client:
        assert client.classify([picture])[0].version == 1
    for tls in (Tls(root_certificates, server_name=flags.server_name), None):
        with (
            Client(tls_server, model="tiny", timeout_s=3, tls=tls) as client,
            pytest.raises((ServerUnavailable, DeadlineExceeded)),
        ):
            client.classify([picture])
