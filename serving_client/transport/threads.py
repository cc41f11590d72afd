"""Sends the calls of a conversation over gRPC, for threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Sequence

import grpc

from serving_client.calls import Call
from serving_client.connection import Metadata, Tls
from serving_client.transport.balancing import Attempt, Server
from serving_client.transport.route import Route

_MAX_CLOSE_S = 0.5

# What a call waits for: an ended attempt with its future, or None when something else has changed.
_Events = queue.SimpleQueue[tuple[Attempt, grpc.Future] | None]


class Transport:
    """The connections of one `Client`. Threads may share it."""

    def __init__(
        self,
        server: str,
        model: str,
        *,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        metadata: Metadata = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.UnaryUnaryClientInterceptor] = (),
    ) -> None:
        """Check the arguments. The first call resolves the name and connects.

        Raises:
          InvalidRequest: an argument is malformed, or a TLS file cannot be read.
        """
        self.route = Route(server, model, wait_for_ready, tls, metadata, compression)
        self._interceptors = tuple(interceptors)
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()
        self._waiting: set[_Events] = set()
        self._is_closed = False

    def conversation(self, timeout_s: float, metadata: Metadata = ()) -> Conversation:
        """Begin a conversation, whose calls and pauses together may take `timeout_s`.

        Its metadata is sent after the client's own.
        """
        return Conversation(self, timeout_s, (*self.route.metadata, *metadata))

    def close(self) -> None:
        """Close the connections. Waiting calls and later ones raise `ServingError`."""
        with self._lock:
            self._is_closed = True
            channels, self._channels = self._channels, {}
        self._wake()
        # If Ctrl-C interrupted gRPC while it started a call, closing the channel waits for that call forever.
        closing = threading.Thread(target=_close, args=(channels.values(),), name="close", daemon=True)
        closing.start()
        closing.join(_MAX_CLOSE_S)

    def start(
        self, attempt: Attempt, call: Call, timeout_s: float, metadata: Metadata, events: _Events
    ) -> grpc.Future:
        """Send a call to one server. Its end is noted in the balancer and put into `events`."""

        def end(future: grpc.Future) -> None:
            balancer.end(attempt, future.code(), future.details() or "", time.monotonic())
            events.put((attempt, future))

        balancer = self.route.balancer
        try:
            method = self._channel(attempt.server).unary_unary(call.method)
            future = method.future(call.request, timeout=timeout_s, metadata=metadata)
        except BaseException as error:
            balancer.end(attempt, grpc.StatusCode.CANCELLED, "", time.monotonic())
            if isinstance(error, ValueError) and self._is_closed:  # closed by another thread in between
                raise self.route.closed() from None
            raise
        future.add_done_callback(end)
        return future

    def refresh(self, failing: bool) -> None:
        """Resolve the name in the background, if it is time to.

        Raises:
          ServingError: the transport is closed.
        """
        if self._is_closed:
            raise self.route.closed()
        if self.route.balancer.must_resolve(time.monotonic(), failing):
            threading.Thread(target=self._resolve, name="resolve", daemon=True).start()

    def wait(self, events: _Events, seconds: float) -> tuple[Attempt, grpc.Future] | None:
        """Return the next event. None: time is up, or something else has changed."""
        self._waiting.add(events)
        try:
            # Checked after the events are known to `close`.
            return None if self._is_closed else events.get(timeout=seconds)
        except queue.Empty:
            return None
        finally:
            self._waiting.discard(events)

    def _channel(self, server: Server) -> grpc.Channel:
        with self._lock:
            if self._is_closed:
                raise self.route.closed()
            if server.target not in self._channels:
                self._channels[server.target] = self.route.dialer.open(server.target, self._interceptors)
            return self._channels[server.target]

    def _resolve(self) -> None:
        self.route.resolve()
        with self._lock:
            removed = [self._channels.pop(target, None) for target in self.route.balancer.forget_removed()]
        for channel in removed:
            if channel:
                channel.close()
        self._wake()

    def _wake(self) -> None:
        for events in list(self._waiting):
            events.put(None)


def _close(channels: Iterable[grpc.Channel]) -> None:
    for channel in channels:
        channel.close()


class Conversation:
    """Calls that belong together: those of one batch, for example. They share a time budget."""

    def __init__(self, transport: Transport, timeout_s: float, metadata: Metadata) -> None:
        self._transport = transport
        self._left_s = timeout_s
        self._metadata = metadata
        self._last_server: Server | None = None

    def send(self, call: Call) -> bytes:
        """Make one call and return the encoded response.

        Raises:
          ServingError: the call failed.
        """
        started = time.monotonic()
        transport = self._transport
        delivery = transport.route.deliver(call, self._left_s, self._last_server)
        events = _Events()
        futures: list[grpc.Future] = []
        try:
            while True:
                transport.refresh(delivery.is_failing(time.monotonic()))
                now = time.monotonic()
                step = delivery.next_step(now)
                if isinstance(step, Attempt):
                    future = transport.start(step, call, delivery.deadline - now, self._metadata, events)
                    if not step.is_probe:
                        futures.append(future)
                    continue
                ended = transport.wait(events, step)
                if ended and delivery.end(ended[0], *_outcome(ended[1])):
                    response: bytes = ended[1].result()
                    return response
        finally:
            for future in futures:
                future.cancel()
            self._last_server = delivery.last_server
            self._left_s -= time.monotonic() - started

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
          DeadlineExceeded: less time than that is left.
          ServingError: the transport is closed.
        """
        if seconds >= self._left_s:
            raise self._transport.route.no_time_left()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._transport.refresh(failing=False)
            self._transport.wait(_Events(), left)
        self._left_s -= seconds


def _outcome(future: grpc.Future) -> tuple[grpc.StatusCode, str, BaseException | None]:
    try:
        return future.code(), future.details() or "", future.exception()
    except grpc.FutureCancelledError as error:
        return future.code(), future.details() or "", error
