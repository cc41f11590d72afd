"""`promote` and `rollback` on a cluster, against a fake API server for ConfigMaps."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer import __main__ as cli
from trainer.cluster import model_config

CONFIG = """model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow"
  model_version_policy { all {} } version_labels { key: "stable" value: 1 } } }
"""


class FakeConfigMapServer(ThreadingHTTPServer):
    """Serves the ConfigMaps of the namespace `ml`. A write with an old resourceVersion is a conflict."""

    def __init__(self) -> None:
        super().__init__(("localhost", 0), Handler)
        self.objects: dict[str, dict[str, Any]] = {}
        self.refuse: int | None = None
        self.conflicts = 0

    def add(self, name: str, data: dict[str, str]) -> None:
        self.objects[name] = {"metadata": {"name": name, "resourceVersion": "1"}, "data": data}


class Handler(BaseHTTPRequestHandler):
    server: FakeConfigMapServer

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return value

    def found(self) -> dict[str, Any] | None:
        prefix = "/api/v1/namespaces/ml/configmaps/"
        return self.server.objects.get(self.path.removeprefix(prefix)) if prefix in self.path else None

    def do_GET(self) -> None:
        if self.server.refuse:
            self.answer(self.server.refuse, {"kind": "Status", "code": self.server.refuse})
        elif found := self.found():
            self.answer(200, found)
        else:
            self.answer(404, {"kind": "Status", "code": 404})

    def do_POST(self) -> None:
        assert self.path == "/api/v1/namespaces/ml/configmaps"
        new = self.body()
        self.server.add(new["metadata"]["name"], new["data"])
        self.answer(201, self.server.objects[new["metadata"]["name"]])

    def do_PUT(self) -> None:
        found, new = self.found(), self.body()
        assert found is not None
        if (
            self.server.conflicts
            or new["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]
        ):
            self.server.conflicts = max(0, self.server.conflicts - 1)
            self.answer(409, {"kind": "Status", "code": 409})
            return
        found["data"] = new["data"]
        found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1)
        self.answer(200, found)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeConfigMapServer]:
    server = FakeConfigMapServer()
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://localhost:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    server.add("classifier-serving", {"models.config": CONFIG})
    yield server
    server.shutdown()
    server.server_close()


def labels(api: FakeConfigMapServer) -> dict[str, int]:
    text = api.objects["classifier-labels"]["data"]["models.config"]
    return model_config.labels(text, "m", "ConfigMap")


def run(*arguments: str) -> int:
    return cli.main([*arguments, "--name", "m", "--namespace", "ml"])


def test_the_first_promotion_creates_a_second_config_map_and_leaves_the_first_alone(
    api: FakeConfigMapServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("promote", "2") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "ConfigMap ml/classifier-labels" in line
    assert labels(api) == {"stable": 2, "stable-previous": 1}
    assert api.objects["classifier-serving"]["data"] == {"models.config": CONFIG}


def test_later_promotions_and_a_rollback_edit_the_second(api: FakeConfigMapServer) -> None:
    for version in ("2", "3"):
        assert run("promote", version) == 0
    assert run("rollback") == 0
    assert labels(api) == {"stable": 2, "stable-previous": 3}


def test_an_edit_that_conflicts_is_made_again(api: FakeConfigMapServer) -> None:
    assert run("promote", "2") == 0
    api.conflicts = 2
    assert run("promote", "3") == 0
    assert labels(api) == {"stable": 3, "stable-previous": 2}


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "k8s/accounts.yaml"), (401, "Log in"), (500, "Check the cluster")]
)
def test_a_refusal_of_the_api_server_is_one_line_with_advice(
    api: FakeConfigMapServer, status: int, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse = status
    assert run("promote", "2") == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert str(status) in line
    assert advice in line


def test_a_namespace_without_the_manifests_is_an_error(
    api: FakeConfigMapServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.objects.clear()
    assert run("promote", "2") == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "404" in line and "k8s/" in line


def test_a_config_map_without_the_key_is_an_error(
    api: FakeConfigMapServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add("classifier-serving", {"other": ""})
    assert run("rollback") == 11
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("ml/classifier-serving", "models.config", "other"):
        assert part in line


def test_a_cluster_that_does_not_answer_is_an_error_with_its_address(
    api: FakeConfigMapServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.shutdown()
    api.server_close()
    assert run("promote", "2") == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert f"localhost:{api.server_port}" in line


def test_a_missing_kubeconfig_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert run("promote", "2") == 11
    assert f"KUBECONFIG={tmp_path / 'none'}" in capsys.readouterr().err
