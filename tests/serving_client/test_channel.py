import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving_client import Client, DeadlineExceeded, InvalidRequest, ServerUnavailable, ServingError, Tls
from tests.serving_client.fake_model_server import FakeModel, build_server

ROW = np.zeros((1, 4, 4, 3), np.float32)


@contextlib.contextmanager
def serving(
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[tuple[FakeModel, int, Callable[[], None]]]:
    """Yield a fake model, the port of its server in this process, and a function that stops the server."""
    model = FakeModel(size_px=4)
    server = build_server(model, threads=8)
    if credentials:
        port = server.add_secure_port("localhost:0", credentials)
    else:
        port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield model, port, lambda: server.stop(None).wait()
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_retries_a_call_that_finds_the_server_overloaded(status: grpc.StatusCode) -> None:
    with serving() as (fake, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        fake.calls, fake.fail = 0, [status] * 3
        assert client.predict(ROW)["probabilities"].shape == (1, 2)
        assert fake.calls == 4


def test_retries_a_large_request() -> None:
    with serving() as (fake, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        fake.fail = [grpc.StatusCode.UNAVAILABLE]
        images = np.zeros((100_000, 4, 4, 3), np.float32)
        assert client.predict(images)["probabilities"].shape == (100_000, 2)


def test_does_not_retry_other_errors() -> None:
    with serving() as (fake, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        fake.calls, fake.fail = 0, [grpc.StatusCode.INTERNAL]
        with pytest.raises(ServingError, match="told to fail"):
            client.predict(ROW)
        assert fake.calls == 1


def test_retries_end_with_an_error_that_names_server_model_and_status() -> None:
    with serving() as (fake, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        fake.calls, fake.fail = 0, [grpc.StatusCode.UNAVAILABLE] * 10
        with pytest.raises(ServerUnavailable) as caught:
            client.predict(ROW)
        for fact in (f"localhost:{port}", "'m'", "UNAVAILABLE", "told to fail"):
            assert fact in str(caught.value)
        assert fake.calls == 5


def test_retries_do_not_outlive_the_deadline() -> None:
    with serving() as (fake, port, _), Client(f"localhost:{port}", model="m", timeout_s=0.5) as client:
        client.describe()
        fake.delay_s, fake.fail = 0.3, [grpc.StatusCode.UNAVAILABLE] * 10
        started = time.monotonic()
        with pytest.raises((DeadlineExceeded, ServerUnavailable)):
            client.predict(ROW)
        assert time.monotonic() - started < 1


def test_spreads_calls_over_all_addresses_and_survives_the_loss_of_one() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(3)]
        addresses = ",".join(f"127.0.0.1:{port}" for _, port, _ in servers)
        with Client(f"ipv4:{addresses}", model="m") as client:
            client.describe()
            for _ in range(100):  # until all three connections are open
                client.predict(ROW)
            for fake, _, _ in servers:
                fake.calls = 0
            for _ in range(300):
                client.predict(ROW)
            counts = Counter({port: fake.calls for fake, port, _ in servers})
            assert max(counts.values()) - min(counts.values()) <= 2
            servers[0][2]()
            for _ in range(100):
                client.predict(ROW)


def pem(directory: Path) -> dict[str, Path]:
    """Create a certificate authority, and a server's and a client's certificate signed by it."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (directory / "names").write_text("subjectAltName=DNS:serving.example")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed, "-extfile", "names")
    return {path.name: path for path in directory.iterdir()}


def test_mutual_tls_from_pem_files(tmp_path: Path) -> None:
    files = pem(tmp_path)
    pair = (files["server.key"].read_bytes(), files["server.pem"].read_bytes())
    credentials = grpc.ssl_server_credentials([pair], files["ca.pem"].read_bytes(), require_client_auth=True)
    with serving(credentials) as (_, port, _):
        server = f"localhost:{port}"
        trusted: dict[str, Any] = {"root_certificates": files["ca.pem"], "server_name": "serving.example"}
        mine: dict[str, Any] = {"certificate_chain": files["client.pem"], "private_key": files["client.key"]}
        with Client(server, model="m", tls=Tls(**trusted, **mine)) as client:
            assert client.describe().labels == ("a", "b")

        def is_refused(tls: Tls | None) -> None:
            with (
                Client(server, model="m", timeout_s=3, tls=tls) as client,
                pytest.raises((ServerUnavailable, DeadlineExceeded)),
            ):
                client.describe()

        # At the same time: each waits for its deadline.
        with ThreadPoolExecutor() as pool:
            list(pool.map(is_refused, (Tls(**trusted), Tls(**mine, server_name="serving.example"), None)))


def test_refuses_pem_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=str(tmp_path / "none")):
        Client("localhost:1", model="m", tls=Tls(root_certificates=tmp_path / "none"))
    with pytest.raises(InvalidRequest, match=r"certificate_chain.*Received: only private_key"):
        Client("localhost:1", model="m", tls=Tls(private_key=tmp_path / "key"))
