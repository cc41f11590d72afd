"""Whatever is sent, the gateway answers with a status that it documents, and goes on."""

import asyncio
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.local_server.test_fuzz import BOMBS, MANY, picture
from tests.serving_client import answering
from tests.serving_client.gateway.conftest import running


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def chunks(count: int) -> Iterator[bytes]:
    """Without a Content-Length."""
    for _ in range(count):
        yield bytes(2**20)


@pytest.mark.parametrize("content", [bytes(8 * 2**20 + 1), chunks(9)], ids=["announced", "chunked"])
def test_a_body_that_is_too_large_is_413(http: httpx.Client, content: object) -> None:
    answer = http.post("/v1/classify", content=content)  # type: ignore[arg-type]  # streamed
    assert answer.status_code == 413
    assert answer.json()["detail"] == "A request may have 8,388,608 bytes. Received: more."
    assert http.get("/readyz").status_code == 200


def test_a_multipart_body_that_is_too_large_is_413(http: httpx.Client) -> None:
    assert http.post("/v1/classify", files={"i": bytes(9 * 2**20)}).status_code == 413


def test_too_many_images_are_refused(http: httpx.Client) -> None:
    small = png(8, 8)
    assert http.post("/v1/classify", files=[("i", small)] * 4).status_code == 200
    for count in (5, 50):
        answer = http.post("/v1/classify", files=[("i", small)] * count)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "Too many files. Maximum number of files is 4."


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(http: httpx.Client) -> None:
    assert http.post("/v1/classify", content=png(1000, 1000)).status_code == 200
    answer = http.post("/v1/classify", content=png(1000, 1001))
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith("may have 1 megapixels. Received: 1000 × 1001.")


@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bombs_and_50_mb_images(http: httpx.Client, bomb: str) -> None:
    answer = http.post("/v1/classify", content=BOMBS[bomb])
    assert answer.status_code in (200, 400, 413)
    assert answer.json()
    assert http.get("/readyz").status_code == 200


@MANY
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "GIF"]),
    cut=st.floats(0.05, 1),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=20),
)
def test_damaged_pictures(http: httpx.Client, kind: str, cut: float, damage: list[tuple[float, int]]) -> None:
    data = bytearray(picture(kind))
    for where, level in damage:
        data[int(where * len(data))] = level
    answer = http.post("/v1/classify", content=bytes(data[: max(1, int(cut * len(data)))]))
    assert answer.status_code in (200, 400)
    assert "Traceback" not in answer.text


def test_requests_beyond_those_that_may_wait_are_503(tmp_path: Path) -> None:
    address = f"127.0.0.1:{answering.free_port()}"
    flags = ["--max-requests", 1, "--max-waiting", 2, "--wait", "--timeout-s", 30]
    with running(address, tmp_path / "log", *flags, model="m") as (url, _):

        async def ask() -> list[int]:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
                content = png(8, 8)
                calls = [asyncio.create_task(http.post("/v1/classify", content=content)) for _ in range(6)]
                refused, _ = await asyncio.wait(calls, timeout=3)
                assert {call.result().headers["Retry-After"] for call in refused} == {"1"}
                assert (await http.get("/healthz")).status_code == 200  # probes have no turn to wait for
                with answering.running(address):
                    return sorted(answer.status_code for answer in await asyncio.gather(*calls))

        assert asyncio.run(ask()) == [200, 200, 200, 503, 503, 503]


def test_a_caller_that_hangs_up_midway_leaves_its_turn(tmp_path: Path) -> None:
    address = f"127.0.0.1:{answering.free_port()}"
    with (
        answering.running(address),
        running(address, tmp_path / "log", "--max-requests", 1, model="m") as (url, _),
    ):
        host, port = url.removeprefix("http://").split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port))) as half:
                half.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        statuses: list[int] = []

        def ask() -> None:
            answer = httpx.post(f"{url}/v1/classify", content=png(8, 8), trust_env=False, timeout=10)
            statuses.append(answer.status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 3
