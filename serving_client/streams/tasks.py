"""A stream of images becomes a stream of results, in tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from typing import Any

from serving_client.preprocessing import ImageInput
from serving_client.protocol import Result
from serving_client.streams import collecting
from serving_client.streams.closing import Closing
from serving_client.streams.collecting import Batches
from serving_client.streams.threads import STREAM_BATCHES
from serving_client.streams.workers import Workers


async def stream_results(
    images: Iterable[ImageInput] | AsyncIterable[ImageInput],
    batch_size: Callable[[], Awaitable[int]],
    classify: Callable[[list[ImageInput]], Coroutine[Any, Any, list[Result]]],
    closing: Closing,
) -> AsyncGenerator[Result, None]:
    """Classify images in batches; see `stream.results`. Closing the generator cancels what is in flight."""
    awake = asyncio.Event()
    source = _Source(images, awake)
    batches = source.batches
    pending: deque[asyncio.Task[list[Result]]] = deque()

    def start_due_batches() -> None:
        while len(pending) < STREAM_BATCHES and (batch := source.take()):
            pending.append(asyncio.create_task(classify(batch)))
            pending[-1].add_done_callback(lambda _: awake.set())

    with closing.waking(awake.set):
        try:
            source.start()
            if not await _wait_for_image(batches, awake, closing):
                return  # without images there is nothing to ask the server
            source.resize(await batch_size())
            while True:
                awake.clear()
                closing.check()
                start_due_batches()
                if pending:
                    if pending[0].done():
                        for result in pending.popleft().result():
                            yield result
                        continue
                elif batches.is_exhausted():
                    return
                await _wait(awake, batches.due_in() if len(pending) < STREAM_BATCHES else None)
        finally:
            tasks = [*pending, *source.stop()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_image(batches: Batches, awake: asyncio.Event, closing: Closing) -> bool:
    """Wait for the first image; return whether there is one."""
    while not batches.has_images():
        if batches.is_exhausted():
            return False
        await awake.wait()
        awake.clear()
        closing.check()
    return True


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for the event, which is set when the time is over. asyncio.wait_for would need a task."""
    if timeout_s is None:
        await event.wait()
        return
    timer = asyncio.get_running_loop().call_later(timeout_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


class _Source:
    """Reads images in a task if they come from an asynchronous iterable, otherwise in a thread."""

    def __init__(
        self, images: Iterable[ImageInput] | AsyncIterable[ImageInput], awake: asyncio.Event
    ) -> None:
        self._images = images
        self._awake = awake
        self._loop = asyncio.get_running_loop()
        self._has_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = Workers(1, "read-images")
        self.batches = Batches(self._wake)

    def start(self) -> None:
        if isinstance(self._images, AsyncIterable):
            self._task = asyncio.create_task(self._read(self._images))
        elif collecting.are_in_memory(self._images):
            self.batches.put_all(self._images)
        else:
            self._thread.submit(collecting.read, self._images, self.batches)

    def take(self) -> list[ImageInput]:
        batch = self.batches.take()
        self._has_room.set()
        return batch

    def resize(self, size: int) -> None:
        self.batches.resize(size)
        self._has_room.set()

    def stop(self) -> list[asyncio.Task[None]]:
        """Let the reader stop; return its task, for the caller to cancel."""
        self.batches.abandon()
        self._thread.stop()
        return [self._task] if self._task else []

    async def _read(self, images: AsyncIterable[ImageInput]) -> None:
        try:
            async for image in images:
                if not self.batches.put(image):
                    self._has_room.clear()
                    await self._has_room.wait()
        except asyncio.CancelledError as error:
            self.batches.end(error)
            raise
        except BaseException as error:
            self.batches.end(error)
        else:
            self.batches.end()

    def _wake(self) -> None:
        if self._task:
            self._awake.set()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._awake.set)
