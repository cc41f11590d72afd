"""Which cluster the commands talk to."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from tests.trainer.fake_api_server import FakeApiServer
from trainer.cluster import api_server
from trainer.errors import ClusterError


def test_a_pod_talks_to_its_own_cluster_as_its_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("token", "secret"), ("ca.crt", "certificate"), ("namespace", "ml\n")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(api_server, "_POD_NAMESPACE", str(tmp_path / "namespace"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    configuration = api_server.connect().configuration
    assert configuration.host == "https://10.96.0.1:443"
    assert configuration.auth_settings()["BearerToken"]["value"] == "bearer secret"
    assert configuration.ssl_ca_cert == str(tmp_path / "ca.crt")
    assert api_server.current_namespace() == "ml"


def test_kubeconfig_takes_precedence_in_a_pod_too(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert api_server.connect().configuration.host == f"http://localhost:{api.server_port}"
    assert api_server.current_namespace() == "ml"


def test_a_missing_kubeconfig_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    for ask in (api_server.connect, api_server.current_namespace):
        with pytest.raises(ClusterError, match=f"KUBECONFIG={tmp_path / 'nowhere'}"):
            ask()


@pytest.mark.parametrize("content", [b"", b"word", b"a: [", b"\xff\xfe", b"[]", b"contexts: 3", b"a: b"])
def test_a_file_that_is_not_a_kubeconfig_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    file = tmp_path / "config"
    file.write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    for ask in (api_server.connect, api_server.current_namespace):
        with pytest.raises(ClusterError) as raised:
            ask()
        assert str(file) in str(raised.value)
        assert "\n" not in str(raised.value)
