"""Spans, where OpenTelemetry's packages are."""

import gzip
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx

from tests.serving_client.gateway.conftest import running

PARENT = "0af7651916cd43dd8448eb211c80319c"


def test_a_request_and_its_grpc_call_are_spans_of_the_callers_trace(
    address: str, tmp_path: Path, image_tree: Path
) -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with running(address, tmp_path / "log", "--timeout-s", 60, env=env) as (url, _):
            content = next(image_tree.glob("test/*/*.jpg")).read_bytes()
            traced = {"traceparent": f"00-{PARENT}-b7ad6b7169203331-01"}
            answer = httpx.post(
                f"{url}/v1/classify", content=content, headers=traced, trust_env=False, timeout=60
            )
            assert answer.status_code == 200
        collector.shutdown()  # the gateway has sent its spans before it ended
        thread.join()
    sent = b"".join(bodies)
    assert b"POST /v1/classify" in sent
    assert b"/tensorflow.serving.PredictionService/Predict" in sent
    assert bytes.fromhex(PARENT) in sent
    assert b"/healthz" not in sent
