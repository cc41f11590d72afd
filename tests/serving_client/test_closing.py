"""`close` ends what waits, in threads and in tasks, with the client's own error."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from serving_client import AsyncClient, Call, Client, ServingError, wire
from tests.serving_client.holding_server import HoldingModel, serving, silent_server

PICTURE = np.zeros((4, 4, 3), np.uint8)
ROW = np.zeros((1, 4, 4, 3), np.float32)
CALL = Call(wire.PREDICT, b"")
JOIN_S = 30
"""Far less than the deadline of the calls, far more than a busy machine needs."""


def never() -> Iterator[np.ndarray]:
    yield PICTURE
    threading.Event().wait()


async def never_async() -> AsyncIterator[np.ndarray]:
    yield PICTURE
    await asyncio.Event().wait()


SYNC_CALLS: dict[str, Callable[[Client], object]] = {
    "describe": lambda client: client.describe(),
    "status": lambda client: client.status(),
    "predict": lambda client: client.predict(ROW),
    "send": lambda client: client.send(CALL),
    "classify one": lambda client: client.classify([PICTURE]),
    "classify many": lambda client: client.classify([PICTURE] * 500),
    "stream a generator": lambda client: list(client.stream(PICTURE for _ in range(500))),
}
ASYNC_CALLS: dict[str, Callable[[AsyncClient], Coroutine[Any, Any, object]]] = {
    "describe": lambda client: client.describe(),
    "status": lambda client: client.status(),
    "predict": lambda client: client.predict(ROW),
    "send": lambda client: client.send(CALL),
    "classify one": lambda client: client.classify([PICTURE]),
    "classify many": lambda client: client.classify([PICTURE] * 500),
    "stream a generator": lambda client: client.classify(PICTURE for _ in range(500)),
}


def error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def close_while_waiting(
    client: Client, calls: list[Callable[[Client], object]], before: Callable[[], object]
) -> None:
    """Make the calls in threads; close the client; each of them must end with the client's error."""
    errors: list[BaseException | None] = []
    threads = [
        threading.Thread(target=lambda one: errors.append(error_of(lambda: one(client))), args=(call,))
        for call in calls
    ]
    for thread in threads:
        thread.daemon = True
        thread.start()
    before()
    client.close()
    for thread in threads:
        thread.join(JOIN_S)
        assert not thread.is_alive()
    assert len(errors) == len(calls)
    for error in errors:
        assert isinstance(error, ServingError), repr(error)
        assert "closed" in str(error)


def test_calls_that_wait_for_a_server_end() -> None:
    with silent_server() as (address, connected):
        client = Client(address, model="m", timeout_s=600, wait_for_ready=True)
        close_while_waiting(client, list(SYNC_CALLS.values()), connected)


def test_streams_that_wait_for_answers_or_for_images_end() -> None:
    model = HoldingModel(is_held=True)
    with serving(model) as address:
        client = Client(address, model="m", timeout_s=600)
        calls = [SYNC_CALLS["classify many"], SYNC_CALLS["stream a generator"]]
        close_while_waiting(client, calls, lambda: model.arrived.wait(JOIN_S))
    model = HoldingModel()
    with serving(model) as address:
        client = Client(address, model="m", timeout_s=600)
        answered = threading.Event()

        def wait_for_images(client: Client) -> None:
            for _ in client.stream(never()):
                answered.set()

        close_while_waiting(client, [wait_for_images], lambda: answered.wait(JOIN_S))


@pytest.mark.parametrize("call", SYNC_CALLS.values(), ids=SYNC_CALLS)
def test_a_closed_client_refuses_calls(call: Callable[[Client], object]) -> None:
    with serving(HoldingModel()) as address:
        client = Client(address, model="m")
        stream = client.stream([PICTURE])  # begun before, taken after
        client.close()
        client.close()
        with pytest.raises(ServingError, match="closed"):
            call(client)
        with pytest.raises(ServingError, match="closed"):
            next(stream)
        with pytest.raises(ServingError, match="closed"):
            client.stream([])


async def close_while_tasks_wait(
    client: AsyncClient,
    calls: Sequence[Coroutine[Any, Any, object]],
    before: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    tasks = [asyncio.create_task(call) for call in calls]
    await before()
    await client.close()
    done, waiting = await asyncio.wait(tasks, timeout=JOIN_S)
    assert not waiting
    for task in done:
        assert not task.cancelled()
        error = task.exception()
        assert isinstance(error, ServingError), repr(error)
        assert "closed" in str(error)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def has_happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, JOIN_S)


def test_tasks_that_wait_for_a_server_end() -> None:
    async def ask() -> None:
        with silent_server() as (address, connected):
            client = AsyncClient(address, model="m", timeout_s=600, wait_for_ready=True)
            calls = [call(client) for call in ASYNC_CALLS.values()]
            await close_while_tasks_wait(client, calls, lambda: asyncio.to_thread(connected))

    asyncio.run(ask())


def test_tasks_that_wait_for_answers_for_their_turn_or_for_images_end() -> None:
    async def take(client: AsyncClient, answered: asyncio.Event) -> None:
        async for _ in client.stream(never_async()):
            answered.set()

    async def ask() -> None:
        model = HoldingModel(is_held=True)
        with serving(model) as address:
            client = AsyncClient(address, model="m", timeout_s=600, max_in_flight=1)
            calls = [client.classify([PICTURE] * 100) for _ in range(20)]
            await close_while_tasks_wait(client, calls, lambda: has_happened(model.arrived))
        with serving(HoldingModel()) as address:
            client = AsyncClient(address, model="m", timeout_s=600)
            answered = asyncio.Event()
            await close_while_tasks_wait(client, [take(client, answered)], answered.wait)

    asyncio.run(ask())


@pytest.mark.parametrize("call", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
def test_a_closed_asynchronous_client_refuses_calls(
    call: Callable[[AsyncClient], Coroutine[Any, Any, object]],
) -> None:
    async def ask() -> None:
        with serving(HoldingModel()) as address:
            client = AsyncClient(address, model="m")
            stream = client.stream([PICTURE])
            await client.close()
            await client.close()
            with pytest.raises(ServingError, match="closed"):
                await call(client)
            with pytest.raises(ServingError, match="closed"):
                await anext(stream)
            with pytest.raises(ServingError, match="closed"):
                client.stream([])

    asyncio.run(ask())
