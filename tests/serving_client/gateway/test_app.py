import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_client import Client
from serving_client.protocol import Via
from tests.serving_client import answering
from tests.serving_client.gateway.conftest import running


def pictures(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("test/*/000.jpg"))


def logged(log: Path, request_id: str, wait_s: float = 20) -> list[dict[str, Any]]:
    """The lines about one request; they are written after its answer has gone, so the first is waited for."""
    deadline = time.monotonic() + wait_s
    while True:
        whole, _, _ = log.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        found = [line for line in lines if line.get("request_id") == request_id]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_a_picture_as_the_body_gets_what_the_client_gets(
    http: httpx.Client, client: Client, image_tree: Path, via: Via
) -> None:
    for path in pictures(image_tree):
        answer = http.post("/v1/classify", params={"top_k": 2, "via": via}, content=path.read_bytes())
        (expected,) = client.classify([path], top_k=2, via=via)
        assert answer.status_code == 200
        (result,) = answer.json()["results"]
        assert result["version"] == expected.version
        assert [score["label"] for score in result["scores"]] == [s.label for s in expected.scores]
        for score, other in zip(result["scores"], expected.scores, strict=True):
            assert score["probability"] == pytest.approx(other.probability, abs=1e-4)


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_the_content_type_may_be_what_tools_send(http: httpx.Client, image_tree: Path, kind: str) -> None:
    """`curl --data-binary` calls everything a form."""
    content = pictures(image_tree)[0].read_bytes()
    assert http.post("/v1/classify", content=content, headers={"Content-Type": kind}).status_code == 200


def test_several_pictures_are_answered_in_order_with_a_bad_one_in_its_place(
    http: httpx.Client, client: Client, image_tree: Path
) -> None:
    paths = pictures(image_tree)[:3]
    parts = [("images", (path.parent.name, path.read_bytes())) for path in paths]
    parts.insert(1, ("images", ("notes.txt", b"no image")))
    answer = http.post("/v1/classify", files=parts)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["name"] for result in results] == [name for _, (name, _) in parts]
    assert "cannot be decoded" in results[1].pop("error")
    assert results.pop(1) == {"name": "notes.txt"}
    labels = [prediction.label for prediction in client.classify(paths)]
    assert [result["scores"][0]["label"] for result in results] == labels


def test_a_form_whose_pictures_are_all_bad_is_answered_too(http: httpx.Client) -> None:
    answer = http.post("/v1/classify", files={"any": ("notes.txt", b"x")})
    assert answer.status_code == 200
    (result,) = answer.json()["results"]
    assert result["name"] == "notes.txt"
    assert "cannot be decoded" in result["error"]


def test_it_tells_the_model_card(http: httpx.Client, client: Client) -> None:
    card = client.describe()
    answer = http.get("/v1/model").json()
    assert answer["labels"] == list(card.labels)
    assert answer["input"] == {"width_px": 32, "height_px": 32, "preprocessing": "caffe"}
    assert answer["metrics"]["validation"]["accuracy"] == card.raw["metrics"]["validation"]["accuracy"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        pytest.param({"content": b""}, 400, "must hold an image", id="nothing"),
        pytest.param({"content": b"no image"}, 400, "cannot be decoded", id="no image"),
        pytest.param({"data": {"images": "x"}, "files": {}}, 400, "cannot be decoded", id="a form"),
        pytest.param(
            {"params": {"top_k": 0}, "content": b"x"}, 422, "query top_k: .*Received: '0'", id="top_k"
        ),
        pytest.param({"params": {"via": "x"}, "content": b"x"}, 422, "query via: .*Received: 'x'", id="via"),
        pytest.param(
            {"json": {"urls": ["https://example.com/"]}},
            403,
            "fetches no pictures.*--allow-url-host",
            id="urls",
        ),
        pytest.param(
            {"content": b"--b", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            "boundary",
            id="boundary",
        ),
    ],
)
def test_what_cannot_be_answered_is_said(
    http: httpx.Client, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = http.post("/v1/classify", **request_)
    assert answer.status_code == status
    assert re.search(message, answer.json()["detail"]), answer.text


def test_urls_of_hosts_that_are_not_allowed_are_said_and_the_api_page_shows_the_json_body(
    address: str, tmp_path: Path
) -> None:
    with (
        running(address, tmp_path / "log", "--allow-url-host", "pictures.example", "--max-images", 2) as (
            url,
            _,
        ),
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        paths = http.get("/openapi.json").json()["paths"]
        assert "application/json" in paths["/v1/classify"]["post"]["requestBody"]["content"]
        answer = http.post("/v1/classify", json={"urls": ["https://example.com/"]})
        assert answer.status_code == 200
        assert "from these hosts only: pictures.example" in answer.json()["results"][0]["error"]
        for body in ('{"url": "x"}', '{"urls": []}', '{"urls": [1]}', "[]", "null", "{", ""):
            answer = http.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
            assert answer.json()["detail"].startswith('JSON must be {"urls": ["https://…"]}. Received: ')
        answer = http.post("/v1/classify", json={"urls": ["https://pictures.example/"] * 3})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("Too many URLs. Maximum number is 2. Received: 3.")


@pytest.mark.parametrize(("flag", "model"), [("--timeout-s", "tiny"), ("--max-images", "other")])
def test_a_model_that_is_not_there_is_503_and_not_ready(
    address: str, image_tree: Path, tmp_path: Path, flag: str, model: str
) -> None:
    server = "localhost:1" if model == "tiny" else address
    with running(server, tmp_path / "log", flag, 1, model=model) as (url, _):
        for path in ("/readyz", "/v1/model"):
            answer = httpx.get(url + path, trust_env=False, timeout=20)
            assert answer.status_code in (503, 504)
            assert f"model '{model}'" in answer.json()["detail"]
        content = pictures(image_tree)[0].read_bytes()
        answer = httpx.post(f"{url}/v1/classify", content=content, trust_env=False, timeout=20)
        assert answer.status_code in (503, 504)
        assert httpx.get(f"{url}/healthz", trust_env=False).text == "ok"


def test_it_is_ready_when_the_model_answers(http: httpx.Client) -> None:
    assert http.get("/readyz").text == "ready"
    assert http.get("/healthz").text == "ok"


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


def test_each_request_has_an_id_in_its_answer_and_in_one_line_of_the_log(
    http: httpx.Client, image_tree: Path, log: Path
) -> None:
    content = pictures(image_tree)[0].read_bytes()
    answer = http.post("/v1/classify", content=content, headers={"X-Request-ID": "order-17"})
    assert answer.headers["X-Request-ID"] == "order-17"
    (line,) = logged(log, "order-17")
    assert line["level"] == "INFO"
    assert (line["method"], line["path"], line["status"], line["images"]) == ("POST", "/v1/classify", 200, 1)
    assert line["duration_ms"] > 0
    for strange in ("", 'a"b', "x" * 200):
        made = http.get("/v1/model", headers={"X-Request-ID": strange}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        (line,) = logged(log, made)
        assert (line["level"], line["path"]) == ("INFO", "/v1/model")


def test_probes_are_not_logged(http: httpx.Client, log: Path) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert http.get(path, headers={"X-Request-ID": "probe"}).status_code == 200
    http.get("/v1/model", headers={"X-Request-ID": "after-the-probes"})
    assert logged(log, "after-the-probes")
    assert logged(log, "probe", wait_s=0) == []


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/docs"])
def test_pages_ask_nobody_outside(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert not re.search(r"(src|href|url|@import|fetch)\W{1,3}(https?:)?//", answer.text)
    if path != "/docs":
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_sigterm_lets_open_requests_finish(tmp_path: Path, image_tree: Path) -> None:
    address = f"127.0.0.1:{answering.free_port()}"
    content = pictures(image_tree)[0].read_bytes()
    with running(address, tmp_path / "log", "--wait", model="m") as (url, process):
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/classify", content=content, trust_env=False, timeout=60))

        thread = threading.Thread(target=ask)
        thread.start()  # it waits: the model server is not there yet
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        with answering.running(address):
            thread.join()
            assert process.wait(timeout=60) == 0
    assert answers[0].status_code == 200


def test_a_port_that_is_taken_is_an_error(gateway: str, tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "serving_client",
        "gateway",
        "--model",
        "m",
        "--port",
        gateway.rpartition(":")[2],
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    argv = [sys.executable, "-m", "serving_client", "gateway", "--model", "m"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m serving_client: The gateway needs the extra `gateway` (uvicorn")
    assert done.stderr.count("\n") == 1
