import gzip
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.serving_client.gateway.conftest import pictures, running

PARENT = "0af7651916cd43dd8448eb211c80319c"


def logged(log: Path, request_id: str, wait_s: float = 20) -> list[dict[str, Any]]:
    """The log lines of one request. The gateway writes them after its answer, so wait for the first."""
    deadline = time.monotonic() + wait_s
    while True:
        whole, _, _ = log.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        found = [line for line in lines if line.get("request_id") == request_id]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def test_metrics_count_requests_and_images(http: httpx.Client, image_tree: Path) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", http.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = [
        'gateway_request_seconds_count{method="POST",path="/v1/classify",status="200"}',
        'gateway_images_total{outcome="classified"}',
        'gateway_images_total{outcome="unreadable"}',
        'gateway_request_seconds_count{method="GET",path="other",status="404"}',
    ]
    before = [value(name) for name in names]
    http.post("/v1/classify", files=[("i", pictures(image_tree)[0].read_bytes()), ("i", b"x")])
    http.get("/nowhere/at/all")
    assert [value(name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1, 1]


def test_each_request_has_an_id_in_its_answer_and_in_one_log_line(
    http: httpx.Client, image_tree: Path, log: Path
) -> None:
    content = pictures(image_tree)[0].read_bytes()
    answer = http.post("/v1/classify", content=content, headers={"X-Request-ID": "order-17"})
    assert answer.headers["X-Request-ID"] == "order-17"
    (line,) = logged(log, "order-17")
    assert line["level"] == "INFO"
    assert (line["method"], line["path"], line["status"], line["images"]) == ("POST", "/v1/classify", 200, 1)
    assert line["duration_ms"] > 0
    for invalid in ("", 'a"b', "x" * 200):
        made = http.get("/v1/model", headers={"X-Request-ID": invalid}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        (line,) = logged(log, made)
        assert (line["level"], line["path"]) == ("INFO", "/v1/model")


def test_probes_are_not_logged(http: httpx.Client, log: Path) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert http.get(path, headers={"X-Request-ID": "probe"}).status_code == 200
    http.get("/v1/model", headers={"X-Request-ID": "after-the-probes"})
    assert logged(log, "after-the-probes")
    assert logged(log, "probe", wait_s=0) == []


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
        collector.shutdown()  # the gateway sent its spans before it exited
        thread.join()
    sent = b"".join(bodies)
    assert b"POST /v1/classify" in sent
    assert b"/tensorflow.serving.PredictionService/Predict" in sent
    assert bytes.fromhex(PARENT) in sent
    assert b"/healthz" not in sent
