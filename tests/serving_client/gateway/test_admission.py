import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.model_servers import Version, fake_server
from tests.serving_client.gateway.conftest import png, running


def chunks(count: int) -> Iterator[bytes]:
    """A body without Content-Length."""
    for _ in range(count):
        yield bytes(2**20)


@pytest.mark.parametrize("content", [bytes(8 * 2**20 + 1), chunks(9)], ids=["announced", "chunked"])
def test_a_body_over_the_limit_is_413(http: httpx.Client, content: object) -> None:
    answer = http.post("/v1/classify", content=content)  # type: ignore[arg-type]  # streamed
    assert answer.status_code == 413
    assert "8,388,608 bytes" in answer.json()["detail"]
    assert http.get("/readyz").status_code == 200


def test_a_form_over_the_limit_is_413(http: httpx.Client) -> None:
    assert http.post("/v1/classify", files={"i": bytes(9 * 2**20)}).status_code == 413


def test_more_requests_than_may_wait_are_503(tmp_path: Path) -> None:
    flags = ["--max-requests", 1, "--max-waiting", 2, "--wait", "--timeout-s", 30]
    with (
        fake_server(Version()) as server,
        running(server.address, tmp_path / "log", *flags, model="m") as (url, _),
    ):

        async def ask() -> list[int]:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
                content = png(8, 8)
                calls = [asyncio.create_task(http.post("/v1/classify", content=content)) for _ in range(6)]
                answers = asyncio.as_completed(calls, timeout=60)
                for _ in range(3):  # one is admitted and two wait
                    assert (await next(answers)).status_code == 503
                refused = [call for call in calls if call.done()]
                assert {call.result().headers["Retry-After"] for call in refused} == {"1"}
                assert (await http.get("/healthz")).status_code == 200  # probes do not wait
                server.start()
                return sorted(answer.status_code for answer in await asyncio.gather(*calls))

        assert asyncio.run(ask()) == [200, 200, 200, 503, 503, 503]


def test_a_caller_that_hangs_up_frees_its_place(tmp_path: Path) -> None:
    with (
        fake_server(Version()) as server,
        running(server.address, tmp_path / "log", "--max-requests", 1, model="m") as (url, _),
    ):
        server.start()
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
