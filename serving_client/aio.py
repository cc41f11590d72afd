"""`AsyncClient`: the client for asyncio. Its methods are those of `Client`, as coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy.typing as npt

from serving_client import arguments
from serving_client.connection import DEFAULT_TIMEOUT_S, Metadata, Tls
from serving_client.errors import ImageError, InvalidRequest, ServingError
from serving_client.model_card import ModelCard
from serving_client.predictions import Outputs, Prediction, VersionStatus
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Pause, Protocol, Result, Steps, Via
from serving_client.streams.closing import Closing
from serving_client.streams.tasks import stream_results
from serving_client.streams.workers import Workers
from serving_client.transport.tasks import AioConversation, AioTransport

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
        metadata: Metadata = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.aio.UnaryUnaryClientInterceptor] = (),
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
    ) -> None:
        """Open the client, inside an event loop or before there is one. The first call connects.

        The client belongs to the event loop that makes its first call.

        Args:
          interceptors: gRPC's asyncio client interceptors, the first one outermost.
          max_in_flight: batches of all tasks together that are decoded or sent at the same time; others wait,
            so memory stays bounded. Waiting does not use up a call's budget. Keep it near the server's
            --grpc_max_threads: a server refuses more calls than it has threads, and retries only absorb
            bursts.

        `Client` documents the other arguments.

        Raises:
          InvalidRequest: an argument is out of range, or a TLS file cannot be read.
        """
        self._server = arguments.check_server(server)
        self._model = arguments.check_model(model)
        self._protocol = Protocol(model, arguments.check_version(version, label))
        self._timeout_s = arguments.check_timeout(timeout_s)
        self._in_flight = asyncio.Semaphore(arguments.check_count("max_in_flight", max_in_flight))
        self._closing = Closing(server, model)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers = Workers(os.cpu_count() or 1, "classify")
        self._transport = AioTransport(
            server,
            model,
            **arguments.check_connection(
                wait_for_ready, tls, metadata, compression, interceptors, is_async=True
            ),
        )

    @property
    def server(self) -> str:
        """The server's address as given."""
        return self._server

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    async def classify(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int = 3,
        via: Via = "images",
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> list[Prediction]:
        """Classify images of any size; see `Client.classify`."""
        stream = self.stream(images, top_k=top_k, via=via, timeout_s=timeout_s, metadata=metadata)
        predictions = []
        async with aclosing(stream) as results:
            async for result in results:
                if isinstance(result, ImageError):
                    raise result
                predictions.append(result)
        return predictions

    def stream(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int = 3,
        via: Via = "images",
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncGenerator[Result, None]:
        """Classify any number of images in bounded memory; see `Client.stream`.

        Args:
          images: an asynchronous iterable, which a task of its own reads, or an iterable as for
            `Client.stream`.

        To leave early, use `async with contextlib.aclosing(client.stream(...)) as results`: it cancels what
        is in flight.
        """
        top_k = arguments.check_stream(images, top_k, via, may_be_async=True)
        settings = self._settings(timeout_s, metadata)
        return stream_results(
            images,
            lambda: self._run(self._protocol.batch_size(via), settings),
            lambda batch: self._classify_in_turn(batch, top_k, via, settings),
            self._closing,
        )

    async def predict(
        self,
        inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> Outputs:
        """Send prepared tensors; see `Client.predict`."""
        return await self._run(self._protocol.predict(inputs), self._settings(timeout_s, metadata))

    async def describe(self, *, timeout_s: float | None = None, metadata: Metadata = ()) -> ModelCard:
        """Fetch the model card; see `Client.describe`."""
        return await self._run(self._protocol.describe(), self._settings(timeout_s, metadata))

    async def status(self, *, timeout_s: float | None = None, metadata: Metadata = ()) -> list[VersionStatus]:
        """Fetch the state of every version; see `Client.status`."""
        return await self._run(self._protocol.status(), self._settings(timeout_s, metadata))

    async def send(self, call: Call) -> bytes:
        """Make one call of your own; see `Client.send`."""
        return await self._closing.until_closed(self._conversation(self._settings(None, ())).send(call))

    async def close(self) -> None:
        """Close the connection. Calls and streams that wait raise ServingError, and so do later ones."""
        self._closing.close()
        self._workers.stop()
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _settings(self, timeout_s: float | None, metadata: Metadata) -> tuple[float, Metadata]:
        """Return the checked time budget and metadata of a call."""
        self._closing.check()
        budget_s = self._timeout_s if timeout_s is None else arguments.check_timeout(timeout_s)
        return budget_s, arguments.check_metadata(metadata)

    def _conversation(self, settings: tuple[float, Metadata]) -> AioConversation:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise InvalidRequest(
                f"{self.server}, model {self.model!r}: an AsyncClient belongs to the event loop of its first "
                "call. Received: a call from another loop. Open a client in each loop, or use Client."
            )
        return self._transport.conversation(*settings)

    async def _classify_in_turn(
        self, batch: list[ImageInput], top_k: int, via: Via, settings: tuple[float, Metadata]
    ) -> list[Result]:
        """Classify one batch once fewer than max_in_flight others are in work."""
        async with self._in_flight:
            return await self._converse(self._protocol.classify(batch, top_k, via), settings)

    async def _run(self, steps: Steps[_T], settings: tuple[float, Metadata]) -> _T:
        return await self._closing.until_closed(self._converse(steps, settings))

    async def _converse(self, steps: Steps[_T], settings: tuple[float, Metadata]) -> _T:
        """Make the conversation's calls one after the other; its computation runs in threads."""
        conversation = self._conversation(settings)
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
        return await asyncio.wrap_future(self._workers.submit(_resume, steps, response))


def _resume(steps: Steps[_T], response: bytes | ServingError | None) -> Call | Pause | _T:
    """Return the next step, or the result: a future cannot carry StopIteration."""
    try:
        if isinstance(response, ServingError):
            return steps.throw(response)
        return next(steps) if response is None else steps.send(response)
    except StopIteration as done:
        result: _T = done.value
        return result
