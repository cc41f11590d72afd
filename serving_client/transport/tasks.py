"""Sends the calls of a conversation over gRPC, for asyncio."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import grpc

from serving_client.calls import Call
from serving_client.connection import Metadata, Tls
from serving_client.transport.balancing import Attempt, Server
from serving_client.transport.route import Route


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """How an attempt ended."""

    code: grpc.StatusCode
    details: str = ""
    response: bytes = b""
    cause: Exception | None = None


class AioTransport:
    """The connections of one `AsyncClient`. Tasks of one event loop may share it."""

    def __init__(
        self,
        server: str,
        model: str,
        *,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        metadata: Metadata = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        """Check the arguments. The first call resolves the name and connects, in its event loop.

        Raises:
          InvalidRequest: an argument is malformed, or a TLS file cannot be read.
        """
        self.route = Route(server, model, wait_for_ready, tls, metadata, compression)
        self._interceptors = tuple(interceptors)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: set[asyncio.Task[object]] = set()
        self._changed: asyncio.Future[None] | None = None
        self._is_closed = False

    def conversation(self, timeout_s: float, metadata: Metadata = ()) -> AioConversation:
        """Begin a conversation, whose calls and pauses together may take `timeout_s`.

        Its metadata is sent after the client's own.
        """
        return AioConversation(self, timeout_s, (*self.route.metadata, *metadata))

    async def close(self) -> None:
        """Close the connections. Waiting calls and later ones raise `ServingError`."""
        self._is_closed = True
        self._wake()
        background = list(self._background)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    def start(
        self, attempt: Attempt, call: Call, timeout_s: float, metadata: Metadata
    ) -> asyncio.Task[_Outcome]:
        """Send a call to one server. Its end is noted in the balancer."""
        task = asyncio.create_task(self._attempt(attempt, call, timeout_s, metadata))
        if attempt.is_probe:
            self._keep(task)
        return task

    def refresh(self, failing: bool) -> None:
        """Resolve the name in the background, if it is time to.

        Raises:
          ServingError: the transport is closed.
        """
        if self._is_closed:
            raise self.route.closed()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the channels of an earlier loop are of no use in this one
            self._loop, self._channels, self._background = loop, {}, set()
            self._changed = loop.create_future()
        if self.route.balancer.must_resolve(time.monotonic(), failing):
            self._keep(asyncio.create_task(self._resolve()))

    async def wait(self, tasks: set[asyncio.Task[_Outcome]], seconds: float) -> set[asyncio.Task[_Outcome]]:
        """Return the tasks that have ended. None of them: time is up, or something else has changed.

        Raises:
          ServingError: the transport is closed.
        """
        assert self._changed  # made by `refresh`
        waiting: set[asyncio.Future[Any]] = {*tasks, self._changed}
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._is_closed:
            raise self.route.closed()
        return {task for task in tasks if task.done()}

    async def _attempt(self, attempt: Attempt, call: Call, timeout_s: float, metadata: Metadata) -> _Outcome:
        outcome = _Outcome(grpc.StatusCode.CANCELLED)
        try:
            channel = self._channels.get(attempt.server.target)
            if channel is None:
                channel = self.route.dialer.open_aio(attempt.server.target, self._interceptors)
                self._channels[attempt.server.target] = channel
            method = channel.unary_unary(call.method)
            response = await method(call.request, timeout=timeout_s, metadata=metadata)
            outcome = _Outcome(grpc.StatusCode.OK, response=response)
        except grpc.RpcError as error:
            outcome = _Outcome(error.code(), error.details() or "", cause=error)
        except Exception as error:  # raised by an interceptor
            outcome = _Outcome(grpc.StatusCode.INTERNAL, f"an interceptor raised {error!r}", cause=error)
        finally:
            self.route.balancer.end(attempt, outcome.code, outcome.details, time.monotonic())
        return outcome

    async def _resolve(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.route.resolve)
        for target in self.route.balancer.forget_removed():
            if channel := self._channels.pop(target, None):
                await channel.close()
        self._wake()

    def _keep(self, task: asyncio.Task[object]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _wake(self) -> None:
        if self._changed and self._loop and not self._loop.is_closed():
            changed, self._changed = self._changed, self._loop.create_future()
            changed.set_result(None)


class AioConversation:
    """Calls that belong together: those of one batch, for example. They share a time budget."""

    def __init__(self, transport: AioTransport, timeout_s: float, metadata: Metadata) -> None:
        self._transport = transport
        self._left_s = timeout_s
        self._metadata = metadata
        self._last_server: Server | None = None

    async def send(self, call: Call) -> bytes:
        """Make one call and return the encoded response.

        Raises:
          ServingError: the call failed.
        """
        started = time.monotonic()
        transport = self._transport
        delivery = transport.route.deliver(call, self._left_s, self._last_server)
        attempts: dict[asyncio.Task[_Outcome], Attempt] = {}
        try:
            while True:
                now = time.monotonic()
                transport.refresh(delivery.is_failing(now))
                step = delivery.next_step(now)
                if isinstance(step, Attempt):
                    attempts[transport.start(step, call, delivery.deadline - now, self._metadata)] = step
                    continue
                for task in await transport.wait(set(attempts), step):
                    outcome = task.result()
                    if delivery.end(attempts.pop(task), outcome.code, outcome.details, outcome.cause):
                        return outcome.response
        finally:
            losers = [task for task, attempt in attempts.items() if not attempt.is_probe]
            for task in losers:
                task.cancel()
            self._last_server = delivery.last_server
            self._left_s -= time.monotonic() - started
            if losers:
                await asyncio.gather(*losers, return_exceptions=True)

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
          DeadlineExceeded: less time than that is left.
          ServingError: the transport is closed.
        """
        if seconds >= self._left_s:
            raise self._transport.route.no_time_left()
        self._left_s -= seconds
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._transport.refresh(failing=False)
            await self._transport.wait(set(), left)
