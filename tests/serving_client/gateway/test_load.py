"""Many callers at once."""

import asyncio
import os
from collections import Counter
from pathlib import Path

import httpx

from tests.serving_client import answering
from tests.serving_client.gateway.conftest import running

CONNECTIONS = 500


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_10000_concurrent_classifications_lose_none_and_keep_memory_flat(
    tmp_path: Path, image_tree: Path
) -> None:
    content = next(image_tree.glob("test/*/*.jpg")).read_bytes()
    address = f"127.0.0.1:{answering.free_port()}"
    with (
        answering.running(address),
        running(address, tmp_path / "log", model="m") as (url, process),
    ):

        async def ask(http: httpx.AsyncClient, calls: int) -> tuple[Counter[int], float]:
            most = 0.0

            async def call(number: int) -> int:
                nonlocal most
                answer = await http.post("/v1/classify", content=content)
                assert answer.status_code != 200 or answer.json()["results"][0]["scores"][0]["label"] == "b"
                if number % 100 == 0:
                    most = max(most, resident_mb(process.pid))
                return answer.status_code

            return Counter(await asyncio.gather(*(call(number) for number in range(calls)))), most

        async def both() -> None:
            limits = httpx.Limits(max_connections=CONNECTIONS)
            async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None, trust_env=False) as http:
                _, before = await ask(http, 1_000)
                statuses, after = await ask(http, 10_000)
            assert statuses == {200: 10_000}
            assert after - before < 100

        asyncio.run(both())
