"""Sends the calls of a conversation over gRPC, for threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc

from serving_client import statuses
from serving_client.channel import METHODS, Tls, open_channel
from serving_client.errors import DeadlineExceeded, ServingError
from serving_client.protocol import Call


class Transport:
    """The connection of one `Client`. Threads may share it."""

    def __init__(
        self,
        server: str,
        model: str,
        *,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.UnaryUnaryClientInterceptor] = (),
    ) -> None:
        self.server = server
        self.model = model
        self.wait_for_ready = wait_for_ready
        self.metadata = tuple(metadata)
        self.compression = compression
        self.is_closed = False
        self._channel = open_channel(server, tls)
        channel = grpc.intercept_channel(self._channel, *interceptors)
        self.methods = {method: channel.unary_unary(method) for method in METHODS}

    def conversation(
        self, timeout_s: float, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> Conversation:
        """Begin a conversation, whose calls and pauses together may take `timeout_s`."""
        return Conversation(self, timeout_s, metadata)

    def close(self) -> None:
        """Close the channel. Calls in flight end with an error."""
        self.is_closed = True
        self._channel.close()


class Conversation:
    """Calls that belong together: those of one batch, for example. They share a time budget."""

    def __init__(
        self, transport: Transport, timeout_s: float, metadata: Sequence[tuple[str, str | bytes]]
    ) -> None:
        self._transport = transport
        self._metadata = (*transport.metadata, *metadata)
        self._left_s = timeout_s

    def send(self, call: Call) -> bytes:
        """Make one call and return the encoded response.

        Raises:
          ServingError: the call failed.
        """
        started = time.monotonic()
        try:
            response: bytes = self._transport.methods[call.method](
                call.request,
                timeout=self._left_s,
                wait_for_ready=self._transport.wait_for_ready,
                metadata=self._metadata,
                compression=self._transport.compression,
            )
            return response
        except grpc.RpcError as error:
            raise _error(error, self._transport) from error
        except ValueError as error:  # the channel is closed
            raise _closed(self._transport) from error
        finally:
            self._left_s -= time.monotonic() - started

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
          DeadlineExceeded: less time than that is left.
        """
        if seconds >= self._left_s:
            raise DeadlineExceeded(f"{self._transport.server}: no time is left.")
        time.sleep(seconds)
        self._left_s -= seconds


def _closed(transport: Transport) -> ServingError:
    return ServingError(f"{transport.server}, model {transport.model!r}: the client is closed.")


def _error(error: Any, transport: Transport) -> Exception:
    if transport.is_closed:
        return _closed(transport)
    return statuses.error_for_status(error.code(), error.details() or "", transport.server, transport.model)
