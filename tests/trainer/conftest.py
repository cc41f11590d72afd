"""A fake cluster for the tests of the commands that talk to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.fake_api_server import FakeApiServer


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    """A fake API server that KUBECONFIG names."""
    from trainer.cluster import log_stream  # imports the Kubernetes client, which most tests don't need

    server = FakeApiServer()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(log_stream, "POLL_S", 0.01)
    yield server
    server.close()
