"""`AsyncClient.stream`: synchronous and asynchronous sources, and what closing it leaves behind."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from serving_client import AsyncClient, Client, InvalidRequest
from tests.serving_client.holding_server import HoldingModel, serving, silent_server

PICTURE = np.zeros((4, 4, 3), np.uint8)


def run(ask: Callable[[HoldingModel, AsyncClient], Awaitable[None]], *, is_held: bool = False) -> None:
    """Run a test with a model and its client."""

    async def main() -> None:
        model = HoldingModel(is_held=is_held)
        with serving(model) as address:
            async with AsyncClient(address, model="m", timeout_s=60) as client:
                await ask(model, client)

    asyncio.run(main())


async def quick(number: int) -> AsyncIterator[np.ndarray]:
    for _ in range(number):
        yield PICTURE


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda: [PICTURE] * 100, id="list"),
        pytest.param(lambda: (PICTURE for _ in range(100)), id="generator"),
        pytest.param(lambda: quick(100), id="asynchronous generator"),
    ],
)
def test_batches_of_a_quick_source_are_full(source: Callable[[], Any]) -> None:
    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        assert len([result async for result in client.stream(source())]) == 100
        assert sorted(model.rows) == [4, 32, 32, 32]
        assert len(await client.classify(source())) == 100

    run(ask)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_slow_source_gets_its_first_answer_before_its_batch_is_full(is_async: bool) -> None:
    given: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for number in range(200):
            given.append(number)
            yield PICTURE
            time.sleep(0.05)

    async def asynchronous_camera() -> AsyncIterator[np.ndarray]:
        for number in range(200):
            given.append(number)
            yield PICTURE
            await asyncio.sleep(0.05)

    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        source = asynchronous_camera() if is_async else camera()
        async with contextlib.aclosing(client.stream(source)) as results:
            await anext(results)
            assert len(given) < 32

    run(ask)


@pytest.mark.parametrize("together", [1, 32, 40])
def test_a_source_that_waits_for_its_results_gets_them(together: int) -> None:
    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        answered: asyncio.Queue[object] = asyncio.Queue()

        async def conversation() -> AsyncIterator[np.ndarray]:
            for _ in range(3):
                for _ in range(together):
                    yield PICTURE
                for _ in range(together):
                    await asyncio.wait_for(answered.get(), 30)

        results = 0
        async for result in client.stream(conversation()):
            results += 1
            answered.put_nowait(result)
        assert results == 3 * together

    run(ask)


def test_a_generator_that_blocks_leaves_the_loop_responsive() -> None:
    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        ticked = threading.Event()

        def blocks() -> Iterator[np.ndarray]:
            yield PICTURE
            assert ticked.wait(30)  # set by the loop while this blocks
            yield PICTURE

        results = client.stream(blocks())
        await anext(results)
        asyncio.get_running_loop().call_later(0.05, ticked.set)
        assert len([result async for result in results]) == 1

    run(ask)


@pytest.mark.parametrize("before", [0, 3, 32, 100])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_the_source_follows_the_results_of_the_images_before_it(
    is_async: bool, before: int
) -> None:
    def breaks() -> Iterator[np.ndarray]:
        yield from [PICTURE] * before
        raise KeyError("the camera is gone")

    async def breaks_async() -> AsyncIterator[np.ndarray]:
        for picture in breaks():
            yield picture

    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        results = []
        with pytest.raises(KeyError, match="camera"):
            async for result in client.stream(breaks_async() if is_async else breaks()):
                results.append(result)
        assert len(results) == before

    run(ask)


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_it_cancels_what_is_in_flight_and_leaves_no_task(is_async: bool) -> None:
    async def endless() -> AsyncIterator[np.ndarray]:
        for _ in count():
            yield PICTURE

    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        source = endless() if is_async else (PICTURE for _ in count())
        async with contextlib.aclosing(client.stream(source)) as results:
            first = asyncio.create_task(anext(results))
            await asyncio.to_thread(model.arrived.wait, 30)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(ask, is_held=True)


def test_cancelling_a_classification_leaves_no_task() -> None:
    async def ask(model: HoldingModel, client: AsyncClient) -> None:
        task = asyncio.create_task(client.classify([PICTURE] * 100))
        await asyncio.to_thread(model.arrived.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(ask, is_held=True)


def test_cancelling_a_call_leaves_no_task() -> None:
    async def ask() -> None:
        with silent_server() as (address, connected):
            async with AsyncClient(address, model="m", timeout_s=600, wait_for_ready=True) as client:
                task = asyncio.create_task(client.describe())
                await asyncio.to_thread(connected)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())


def test_a_client_opened_before_its_loop_works_in_it_and_is_refused_in_another() -> None:
    with serving(HoldingModel()) as address:
        client = AsyncClient(address, model="m")

        async def ask() -> None:
            assert len(await client.classify([PICTURE])) == 1

        async def ask_again() -> None:
            for call in (client.classify([PICTURE]), client.describe(), client.status()):
                with pytest.raises(InvalidRequest, match="event loop"):
                    await call

        async def ask_and_close() -> None:
            await ask()
            await client.close()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask())
        asyncio.run(ask_again())
        loop.run_until_complete(ask_and_close())
        loop.close()


def test_a_client_that_was_never_used_can_be_closed() -> None:
    asyncio.run(AsyncClient("localhost:1", model="m").close())


def test_only_the_asynchronous_client_takes_asynchronous_sources() -> None:
    with Client("localhost:1", model="m") as client, pytest.raises(InvalidRequest, match="AsyncClient"):
        client.stream(quick(1))  # type: ignore[arg-type]  # that is what is refused
