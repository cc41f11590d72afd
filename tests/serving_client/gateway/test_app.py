import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_client import Client
from serving_client.protocol import Via
from tests.serving_client.gateway.conftest import pictures, running


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_a_picture_as_the_body_gets_the_clients_answer(
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
def test_accepts_the_content_types_that_tools_send(http: httpx.Client, image_tree: Path, kind: str) -> None:
    """`curl --data-binary` declares every body a form."""
    content = pictures(image_tree)[0].read_bytes()
    assert http.post("/v1/classify", content=content, headers={"Content-Type": kind}).status_code == 200


def test_answers_several_pictures_in_order_with_an_error_for_an_invalid_one(
    http: httpx.Client, client: Client, image_tree: Path
) -> None:
    paths = pictures(image_tree)[:3]
    parts = [("images", (path.parent.name, path.read_bytes())) for path in paths]
    parts.insert(1, ("images", ("notes.txt", b"not an image")))
    answer = http.post("/v1/classify", files=parts)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["name"] for result in results] == [name for _, (name, _) in parts]
    assert "image bytes" in results[1].pop("error")
    assert results.pop(1) == {"name": "notes.txt"}
    labels = [prediction.label for prediction in client.classify(paths)]
    assert [result["scores"][0]["label"] for result in results] == labels


def test_answers_a_form_whose_pictures_are_all_invalid(http: httpx.Client) -> None:
    answer = http.post("/v1/classify", files={"any": ("notes.txt", b"x")})
    assert answer.status_code == 200
    (result,) = answer.json()["results"]
    assert result.keys() == {"name", "error"}
    assert result["name"] == "notes.txt"


def test_returns_the_model_card(http: httpx.Client, client: Client) -> None:
    card = client.describe()
    answer = http.get("/v1/model").json()
    assert answer["labels"] == list(card.labels)
    assert answer["input"] == {"width_px": 32, "height_px": 32, "preprocessing": "caffe"}
    assert answer["metrics"]["validation"]["accuracy"] == card.raw["metrics"]["validation"]["accuracy"]


@pytest.mark.parametrize(
    ("request_", "status", "fact"),
    [
        pytest.param({"content": b""}, 400, "Received: none", id="nothing"),
        pytest.param({"content": b"not an image"}, 400, "12 bytes", id="not an image"),
        pytest.param({"data": {"images": "x"}, "files": {}}, 400, "8 bytes", id="a form without files"),
        pytest.param(
            {"json": {"urls": ["https://example.com/"]}}, 400, "image bytes", id="a URL, which is not fetched"
        ),
        pytest.param({"params": {"top_k": 0}, "content": b"x"}, 422, "query top_k: .*'0'", id="top_k"),
        pytest.param({"params": {"via": "x"}, "content": b"x"}, 422, "query via: .*'x'", id="via"),
        pytest.param(
            {"content": b"--b", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            "boundary",
            id="boundary",
        ),
    ],
)
def test_a_refusal_says_what_was_received(
    http: httpx.Client, request_: dict[str, Any], status: int, fact: str
) -> None:
    answer = http.post("/v1/classify", **request_)
    assert answer.status_code == status
    assert re.search(fact, answer.json()["detail"]), answer.text


@pytest.mark.parametrize("model", ["tiny", "other"])
def test_a_missing_server_or_model_is_503_and_not_ready(
    address: str, image_tree: Path, tmp_path: Path, model: str
) -> None:
    server = "localhost:1" if model == "tiny" else address
    with (
        running(server, tmp_path / "log", "--timeout-s", 0.5, model=model) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=20) as http,
    ):
        for path in ("/readyz", "/v1/model"):
            answer = http.get(path)
            assert answer.status_code in (503, 504)
            assert f"'{model}'" in answer.json()["detail"]
        answer = http.post("/v1/classify", content=pictures(image_tree)[0].read_bytes())
        assert answer.status_code in (503, 504)
        assert http.get("/healthz").text == "ok"


def test_is_ready_when_the_model_answers(http: httpx.Client) -> None:
    assert http.get("/readyz").text == "ready"
    assert http.get("/healthz").text == "ok"


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/docs"])
def test_pages_load_nothing_from_other_hosts(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert not re.search(r"(src|href|url|@import|fetch)\W{1,3}(https?:)?//", answer.text)
    if path != "/docs":
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
