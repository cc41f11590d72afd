"""Thousands of concurrent callers."""

import asyncio
import os
import resource
from collections import Counter
from pathlib import Path

import aiohttp

from tests.model_servers import Version, fake_server, picture
from tests.serving_client.gateway.conftest import running

# 10,000 is the number that the gateway promises; fewer show the same within the suite's time.
CALLS = int(os.environ.get("CONCURRENT_CALLS", "2000"))
# All at the same time, if the limit of open files allows it for both sides.
CONNECTIONS = min(CALLS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_thousands_of_concurrent_classifications_lose_none_and_keep_memory_flat(
    tmp_path: Path,
) -> None:
    content = picture("fish")
    with (
        fake_server(Version()) as server,
        running(server.address, tmp_path / "log", model="m") as (url, process),
    ):
        server.start()

        async def ask(http: aiohttp.ClientSession, calls: int) -> tuple[Counter[int], float]:
            most = 0.0

            async def call(number: int) -> int:
                nonlocal most
                async with http.post(f"{url}/v1/classify", data=content) as answer:
                    body = await answer.json()
                assert answer.status != 200 or body["results"][0]["scores"][0]["label"] == "fish"
                if number % 100 == 0:
                    most = max(most, resident_mb(process.pid))
                return answer.status

            return Counter(await asyncio.gather(*(call(number) for number in range(calls)))), most

        async def both() -> None:
            # Not httpx, which takes minutes to manage this many connections.
            connections = aiohttp.TCPConnector(limit=CONNECTIONS)
            patience = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(connector=connections, timeout=patience) as http:
                _, before = await ask(http, CALLS)
                statuses, after = await ask(http, CALLS)
            assert statuses == {200: CALLS}
            assert after - before < 100

        asyncio.run(both())
