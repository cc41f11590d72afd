"""Sends the calls of a conversation over gRPC, for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc

from serving_client import statuses
from serving_client.channel import METHODS, Tls, open_aio_channel
from serving_client.errors import DeadlineExceeded
from serving_client.protocol import Call


class AioTransport:
    """The connection of one `AsyncClient`. Tasks of one event loop may share it."""

    def __init__(
        self,
        server: str,
        model: str,
        *,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.aio.UnaryUnaryClientInterceptor] = (),
    ) -> None:
        self.server = server
        self.model = model
        self.wait_for_ready = wait_for_ready
        self.metadata = tuple(metadata)
        self.compression = compression
        self._tls = tls
        self._interceptors = list(interceptors)
        self._channel: grpc.aio.Channel | None = None
        self.methods: dict[str, grpc.aio.UnaryUnaryMultiCallable] = {}

    def conversation(
        self, timeout_s: float, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> AioConversation:
        """Begin a conversation, whose calls and pauses together may take `timeout_s`."""
        if self._channel is None:
            self._channel = open_aio_channel(self.server, self._tls, self._interceptors)
            self.methods = {method: self._channel.unary_unary(method) for method in METHODS}
        return AioConversation(self, timeout_s, metadata)

    async def close(self) -> None:
        """Close the channel. Calls in flight end with an error."""
        if self._channel is not None:
            await self._channel.close()


class AioConversation:
    """Calls that belong together: those of one batch, for example. They share a time budget."""

    def __init__(
        self, transport: AioTransport, timeout_s: float, metadata: Sequence[tuple[str, str | bytes]]
    ) -> None:
        self._transport = transport
        self._metadata = (*transport.metadata, *metadata)
        self._left_s = timeout_s

    async def send(self, call: Call) -> bytes:
        """Make one call and return the encoded response.

        Raises:
          ServingError: the call failed.
        """
        started = time.monotonic()
        try:
            response: bytes = await self._transport.methods[call.method](
                call.request,
                timeout=self._left_s,
                wait_for_ready=self._transport.wait_for_ready,
                metadata=self._metadata,
                compression=self._transport.compression,
            )
            return response
        except grpc.RpcError as error:
            raise statuses.error_for_status(
                error.code(), error.details() or "", self._transport.server, self._transport.model
            ) from error
        finally:
            self._left_s -= time.monotonic() - started

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
          DeadlineExceeded: less time than that is left.
        """
        if seconds >= self._left_s:
            raise DeadlineExceeded(f"{self._transport.server}: no time is left.")
        await asyncio.sleep(seconds)
        self._left_s -= seconds
