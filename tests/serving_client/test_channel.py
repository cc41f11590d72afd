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
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving_client import Client, DeadlineExceeded, InvalidRequest, ServerUnavailable, ServingError, Tls

CARD = (
    '{"schema_version": 1, "name": "m", "version": 1, "labels": ["a", "b"], "metrics": {},'
    '"input": {"height_px": 4, "width_px": 4, "channels": "RGB", "preprocessing": "tf",'
    '"resize_filter": "bilinear"}}'
)
ROW = np.zeros((1, 4, 4, 3), np.float32)


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]  # no types
    """Answers, but fails as many calls as it is told to, with the status that it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail: list[grpc.StatusCode] = []
        self.delay_s = 0.0

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        self.calls += 1
        time.sleep(self.delay_s)
        if self.fail:
            context.abort(self.fail.pop(0), "as told")
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = 1
        if "query" in request.inputs:
            response.outputs["card"].CopyFrom(tf.make_tensor_proto([CARD]))
        else:
            rows = tf.make_ndarray(request.inputs["images"]).shape[0]
            response.outputs["probabilities"].CopyFrom(tf.make_tensor_proto(np.full((rows, 2), 0.5, "f4")))
        return response


@contextlib.contextmanager
def serving(
    credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[tuple[Service, int, Callable[[], None]]]:
    service = Service()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    address = f"localhost:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield service, bound, lambda: server.stop(None).wait()
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_call_that_finds_the_server_overloaded_is_sent_again(status: grpc.StatusCode) -> None:
    with serving() as (service, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        service.calls, service.fail = 0, [status] * 3
        assert client.predict(ROW)["probabilities"].shape == (1, 2)
        assert service.calls == 4


def test_a_large_request_is_sent_again_too() -> None:
    with serving() as (service, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        service.fail = [grpc.StatusCode.UNAVAILABLE]
        images = np.zeros((100_000, 4, 4, 3), np.float32)
        assert client.predict(images)["probabilities"].shape == (100_000, 2)


def test_what_would_fail_again_is_sent_once() -> None:
    with serving() as (service, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        service.calls, service.fail = 0, [grpc.StatusCode.INTERNAL]
        with pytest.raises(ServingError, match="as told"):
            client.predict(ROW)
        assert service.calls == 1


def test_retries_end_and_the_error_names_server_and_model() -> None:
    with serving() as (service, port, _), Client(f"localhost:{port}", model="m") as client:
        client.describe()
        service.calls, service.fail = 0, [grpc.StatusCode.UNAVAILABLE] * 10
        with pytest.raises(ServerUnavailable, match=f"^localhost:{port}, model 'm': UNAVAILABLE: as told"):
            client.predict(ROW)
        assert service.calls == 5


def test_retries_do_not_outlive_the_deadline() -> None:
    with serving() as (service, port, _), Client(f"localhost:{port}", model="m", timeout_s=0.5) as client:
        client.describe()
        service.delay_s, service.fail = 0.3, [grpc.StatusCode.UNAVAILABLE] * 10
        started = time.monotonic()
        with pytest.raises((DeadlineExceeded, ServerUnavailable)):
            client.predict(ROW)
        assert time.monotonic() - started < 1


def test_calls_are_spread_over_all_addresses_of_a_name_and_outlive_one_of_them() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(3)]
        addresses = ",".join(f"127.0.0.1:{port}" for _, port, _ in servers)
        with Client(f"ipv4:{addresses}", model="m") as client:
            client.describe()
            for _ in range(100):  # until all three connections are there
                client.predict(ROW)
            for service, _, _ in servers:
                service.calls = 0
            for _ in range(300):
                client.predict(ROW)
            counts = Counter({port: service.calls for service, port, _ in servers})
            assert max(counts.values()) - min(counts.values()) <= 2
            servers[0][2]()
            for _ in range(100):
                client.predict(ROW)


def pem(directory: Path) -> dict[str, Path]:
    """Make a certificate authority, and with it certificates of a server and of a client."""

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
        for tls in (Tls(**trusted), Tls(**mine, server_name="serving.example"), None):
            with (
                Client(server, model="m", timeout_s=3, tls=tls) as client,
                pytest.raises((ServerUnavailable, DeadlineExceeded)),
            ):
                client.describe()


def test_pem_files_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"TLS needs PEM files\. Received: .*none: No such file"):
        Client("localhost:1", model="m", tls=Tls(root_certificates=tmp_path / "none"))
    with pytest.raises(InvalidRequest, match="Mutual TLS needs certificate_chain and private_key"):
        Client("localhost:1", model="m", tls=Tls(private_key=tmp_path / "key"))
