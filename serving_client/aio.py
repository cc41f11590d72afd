"""`AsyncClient`: the client for asyncio. Its methods are those of `Client`, as coroutines."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from serving_client import protocol
from serving_client.aio_transport import AioTransport
from serving_client.channel import DEFAULT_TIMEOUT_S, Tls, check_timeout
from serving_client.client import STREAM_BATCHES
from serving_client.codec import Outputs, Prediction, VersionStatus
from serving_client.errors import ServingError
from serving_client.model_card import ModelCard
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Pause, Protocol, Result, Steps, Via

DEFAULT_MAX_IN_FLIGHT = 32

_T = TypeVar("_T")


class AsyncClient:
    """Classifies images with one model on one server, from one event loop. Tasks may share a client.

    It decodes images in threads, so the event loop stays responsive.

        async with AsyncClient("localhost:8500", model="demo") as client:
            (prediction,) = await client.classify(["cat.jpg"])
    """

    def __init__(
        self,
        server: str,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
    ) -> None:
        """Open a channel in the running event loop. The first call connects.

        Args:
          max_in_flight: batches of all tasks together that are decoded or sent at the same time; others wait,
            so memory stays bounded. Waiting does not use up a call's deadline. Keep it near the server's
            --grpc_max_threads: a server refuses more calls than it has threads, and retries only absorb
            bursts.

        `Client` documents the other arguments.

        Raises:
          InvalidRequest: an argument is out of range, or a TLS file cannot be read.
        """
        check_timeout(timeout_s)
        self._protocol = Protocol(server, model, version, label)
        self._timeout_s = timeout_s
        self._in_flight = asyncio.Semaphore(max_in_flight)
        self._pool = ThreadPoolExecutor(os.cpu_count(), "classify")
        self._transport = AioTransport(server, model, wait_for_ready=wait_for_ready, tls=tls)

    @property
    def server(self) -> str:
        """The server's address as given."""
        return self._protocol.server

    @property
    def model(self) -> str:
        """The model's name."""
        return self._protocol.model

    async def classify(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> list[Prediction]:
        """Classify images of any size; see `Client.classify`."""
        results = [result async for result in self.stream(images, top_k=top_k, via=via)]
        return protocol.predictions_or_raise(results)

    def stream(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> AsyncIterator[Result]:
        """Classify any number of images in bounded memory; see `Client.stream`."""
        protocol.check_classify(images, top_k, via)
        return self._stream(iter(images), top_k, via)

    async def predict(self, inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]) -> Outputs:
        """Send a preprocessed tensor; see `Client.predict`."""
        return await self._run(self._protocol.predict(inputs))

    async def describe(self) -> ModelCard:
        """Fetch the model card; see `Client.describe`."""
        return await self._run(self._protocol.describe())

    async def status(self) -> list[VersionStatus]:
        """Fetch the state of every version; see `Client.status`."""
        return await self._run(self._protocol.status())

    async def send(self, call: Call) -> bytes:
        """Make one call of `serving_client.protocol`; see `Client.send`."""
        return await self._transport.conversation(self._timeout_s).send(call)

    async def close(self) -> None:
        """Close the channel. Calls in flight end with an error."""
        await self._transport.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _stream(self, images: Iterator[ImageInput], top_k: int, via: Via) -> AsyncIterator[Result]:
        first = list(islice(images, 1))
        if not first:
            return  # without images there is nothing to ask the server
        size = await self._run(self._protocol.batch_size(via))
        images = chain(first, images)
        pending: deque[asyncio.Task[list[Result]]] = deque()
        try:
            while batch := list(islice(images, size)):
                steps = self._protocol.classify(batch, top_k, via)
                pending.append(asyncio.create_task(self._run_in_flight(steps)))
                if len(pending) == STREAM_BATCHES:
                    for result in await pending.popleft():
                        yield result
            while pending:
                for result in await pending.popleft():
                    yield result
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _run_in_flight(self, steps: Steps[_T]) -> _T:
        """Run a conversation once fewer than max_in_flight others are running."""
        async with self._in_flight:
            return await self._run(steps)

    async def _run(self, steps: Steps[_T]) -> _T:
        """Make the conversation's calls one after the other; its computation runs in threads."""
        conversation = self._transport.conversation(self._timeout_s)
        step = await self._resume_in_thread(steps, None)
        while isinstance(step, (Call, Pause)):
            response: bytes | ServingError = b""
            try:
                if isinstance(step, Pause):
                    await conversation.pause(step.seconds)
                else:
                    response = await conversation.send(step)
            except ServingError as error:
                response = error
            step = await self._resume_in_thread(steps, response)
        return step

    async def _resume_in_thread(
        self, steps: Steps[_T], response: bytes | ServingError | None
    ) -> Call | Pause | _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _resume, steps, response)


def _resume(steps: Steps[_T], response: bytes | ServingError | None) -> Call | Pause | _T:
    """Return the next step, or the result: a future cannot carry StopIteration."""
    try:
        if isinstance(response, ServingError):
            return steps.throw(response)
        return next(steps) if response is None else steps.send(response)
    except StopIteration as done:
        result: _T = done.value
        return result
