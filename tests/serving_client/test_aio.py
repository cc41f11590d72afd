import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    ModelNotFound,
    ServerUnavailable,
)
from serving_client.protocol import Via
from tests.serving_client import fake_model_server

# 10,000 is the number that the client promises; fewer show the same within the suite's time.
CALLS = int(os.environ.get("CONCURRENT_CALLS", "2000"))


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def opened(address: str, **options: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, **{"model": "tiny", "timeout_s": 60, **options}) as client:
        yield client


def pictures(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("test/*/*.jpg"))


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_answers_what_the_synchronous_client_answers(
    address: str, client: Client, image_tree: Path, via: Via
) -> None:
    paths = pictures(image_tree) * 10

    async def ask() -> None:
        async with opened(address) as other:
            mine = await other.classify(paths, via=via)
            for one, expected in zip(mine, client.classify(paths, via=via), strict=True):
                assert (one.label, one.version) == (expected.label, expected.version)
                assert one.probability == pytest.approx(expected.probability, abs=1e-5)
            assert await other.describe() == client.describe()
            assert await other.status() == client.status()
            images = np.zeros((2, 32, 32, 3), np.float32)
            outputs = await other.predict(images)
            np.testing.assert_allclose(
                outputs["logits"], client.predict(images)["logits"], rtol=1e-4, atol=1e-5
            )
            assert (other.server, other.model) == (client.server, client.model)

    asyncio.run(ask())


def test_raises_the_same_errors(address: str, image_tree: Path) -> None:
    async def ask() -> None:
        async with opened(address) as client:
            with pytest.raises(ImageError, match="image bytes"):
                await client.classify([b"not an image"])
            with pytest.raises(InvalidRequest, match=r"float32 \(1, 2, 2, 3\)"):
                await client.predict(np.zeros((1, 2, 2, 3), np.float32))
            with pytest.raises(InvalidRequest, match="str"):
                client.stream("cat.jpg")
        async with opened(address, model="nope") as client:
            with pytest.raises(ModelNotFound, match="nope"):
                await client.classify(pictures(image_tree)[:1])
        async with opened("localhost:1", timeout_s=1) as client:
            with pytest.raises((ServerUnavailable, DeadlineExceeded), match="localhost:1"):
                await client.describe()
        with pytest.raises(InvalidRequest, match="timeout_s"):
            AsyncClient("h:1", model="m", timeout_s=-1)

    asyncio.run(ask())


def test_reads_an_endless_stream_as_results_are_taken(address: str, image_tree: Path) -> None:
    path = pictures(image_tree)[0]

    async def ask() -> None:
        async with opened(address) as client:
            taken = 0
            stream = client.stream(path for _ in count())
            async for _ in stream:
                taken += 1
                if taken == 300:
                    break
            await stream.aclose()

    asyncio.run(ask())


def test_the_event_loop_stays_responsive_while_images_are_decoded(address: str, image_tree: Path) -> None:
    async def ask() -> float:
        async with opened(address) as client:
            await client.describe()
            loop, longest = asyncio.get_running_loop(), 0.0
            work = asyncio.create_task(client.classify(pictures(image_tree) * 100))
            while not work.done():
                started = loop.time()
                await asyncio.sleep(0.001)
                longest = max(longest, loop.time() - started)
            return longest

    assert asyncio.run(ask()) < 0.5


def test_thousands_of_concurrent_classifications_lose_none_and_keep_memory_flat(image_tree: Path) -> None:
    paths = pictures(image_tree)

    async def ask(client: AsyncClient, calls: int) -> tuple[int, float]:
        most, answers = 0.0, 0

        async def call(number: int) -> None:
            nonlocal most, answers
            (prediction,) = await client.classify([paths[number % len(paths)]])
            answers += prediction.label == "b"
            if number % 100 == 0:
                most = max(most, resident_mb())

        await asyncio.gather(*(call(number) for number in range(calls)))
        return answers, most

    async def both(address: str) -> None:
        async with opened(address, model="m") as client:
            _, before = await ask(client, CALLS // 10)
            answers, after = await ask(client, CALLS)
        assert answers == CALLS
        assert after - before < 150  # a task takes 10 kB; all images at once, 110 kB each

    address = f"127.0.0.1:{fake_model_server.free_port()}"
    with fake_model_server.running(address):
        asyncio.run(both(address))
