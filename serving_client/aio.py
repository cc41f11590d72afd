"""`AsyncClient`: the same for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from serving_client import codec, protocol
from serving_client.card import ModelCard
from serving_client.channel import METHODS, Tls, open_aio_channel
from serving_client.client import IN_FLIGHT
from serving_client.codec import Prediction, VersionStatus
from serving_client.errors import ServingError
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Protocol, Result, Steps, Via

_T = TypeVar("_T")


class AsyncClient:
    """Asks one model on one server, from one event loop; any number of tasks may share it.

    Images are decoded in threads, so that the event loop goes on.

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
        timeout_s: float = 10.0,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        max_in_flight: int = 32,
    ) -> None:
        """Open a channel, in a running event loop; nothing is sent yet.

        Args:
          max_in_flight: batches that are decoded or sent at the same time; more wait their turn, so that
            memory stays bounded however many tasks call. The deadline begins with the call. A server
            refuses more calls than it has threads (its --grpc_max_threads); retries make up for bursts only.

        The others are those of `Client`.

        Raises:
          InvalidRequest: an argument cannot be used.
        """
        protocol.check_timeout(timeout_s)
        self._protocol = Protocol(server, model, version, label)
        self._timeout_s = timeout_s
        self._wait_for_ready = wait_for_ready
        self._turns = asyncio.Semaphore(max_in_flight)
        self._pool = ThreadPoolExecutor(os.cpu_count(), "classify")
        self._channel = open_aio_channel(server, tls)
        self._methods = {method: self._channel.unary_unary(method) for method in METHODS}

    @property
    def server(self) -> str:
        """The address that it was opened with."""
        return self._protocol.server

    @property
    def model(self) -> str:
        """The model's name."""
        return self._protocol.model

    async def describe(self) -> ModelCard:
        """Do as `Client.describe`."""
        return await self._run(self._protocol.describe())

    async def status(self) -> list[VersionStatus]:
        """Do as `Client.status`."""
        return await self._run(self._protocol.status())

    async def classify(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> list[Prediction]:
        """Do as `Client.classify`."""
        results = [result async for result in self.stream(images, top_k=top_k, via=via)]
        return protocol.raise_image_error(results)

    def stream(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> AsyncIterator[Result]:
        """Do as `Client.stream`."""
        protocol.check_classify(images, top_k, via)
        return self._stream(iter(images), top_k, via)

    async def predict(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Do as `Client.predict`."""
        return await self._run(self._protocol.predict(images))

    async def send(self, call: Call) -> bytes:
        """Do as `Client.send`."""
        try:
            answer: bytes = await self._methods[call.method](
                call.request, timeout=self._timeout_s, wait_for_ready=self._wait_for_ready
            )
            return answer
        except grpc.RpcError as error:
            raise codec.error_from(error.code(), error.details() or "", self.server, self.model) from error

    async def close(self) -> None:
        """Close the channel; calls that are still waiting end with an error."""
        await self._channel.close()
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
        for first in islice(images, 1):  # no images, no call
            images = chain([first], images)
            size = await self._run(self._protocol.batch_size(via))
            pending: deque[asyncio.Task[list[Result]]] = deque()
            try:
                while batch := list(islice(images, size)):
                    steps = self._protocol.classify(batch, top_k, via)
                    pending.append(asyncio.create_task(self._in_turn(steps)))
                    if len(pending) == IN_FLIGHT:
                        for result in await pending.popleft():
                            yield result
                while pending:
                    for result in await pending.popleft():
                        yield result
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)

    async def _in_turn(self, steps: Steps[_T]) -> _T:
        async with self._turns:
            return await self._run(steps)

    async def _run(self, steps: Steps[_T]) -> _T:
        """Carry out the protocol's calls; what it computes between them, in a thread."""
        call = await self._resume(steps, None)
        while isinstance(call, Call):
            answer: bytes | ServingError
            try:
                answer = await self.send(call)
            except ServingError as error:
                answer = error
            call = await self._resume(steps, answer)
        return call

    async def _resume(self, steps: Steps[_T], answer: bytes | ServingError | None) -> Call | _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _resume, steps, answer)


def _resume(steps: Steps[_T], answer: bytes | ServingError | None) -> Call | _T:
    """Return the next call, or the result: a future cannot carry StopIteration."""
    try:
        if isinstance(answer, ServingError):
            return steps.throw(answer)
        return next(steps) if answer is None else steps.send(answer)
    except StopIteration as done:
        result: _T = done.value
        return result
