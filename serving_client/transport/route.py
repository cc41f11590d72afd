"""What the transports for threads and for asyncio share: the way to the servers of one name."""

from __future__ import annotations

import time

import grpc

from serving_client.calls import Call
from serving_client.connection import Metadata, Tls
from serving_client.errors import ServingError
from serving_client.transport import statuses
from serving_client.transport.addresses import parse_server
from serving_client.transport.balancing import Balancer, Server
from serving_client.transport.delivery import Delivery
from serving_client.transport.dialing import Dialer


class Route:
    """One model on the servers of one name. Threads may share it."""

    def __init__(
        self,
        server: str,
        model: str,
        wait_for_ready: bool,
        tls: Tls | None,
        metadata: Metadata,
        compression: grpc.Compression | None,
    ) -> None:
        """Check the arguments.

        Raises:
          InvalidRequest: an argument is malformed, or a TLS file cannot be read.
        """
        self.metadata = tuple(metadata)
        self._name = parse_server(server)
        self.dialer = Dialer(self._name, tls, compression)
        self.balancer = Balancer(self._name.targets)
        self._server = server
        self._model = model
        self._wait_for_ready = wait_for_ready

    def deliver(self, call: Call, timeout_s: float, last_server: Server | None) -> Delivery:
        """Begin a call."""
        return Delivery(
            self.balancer,
            server=self._server,
            model=self._model,
            wait_for_ready=self._wait_for_ready,
            size=len(call.request),
            same_server=call.same_server,
            last_server=last_server,
            now=time.monotonic(),
            timeout_s=timeout_s,
        )

    def resolve(self) -> None:
        """Resolve the name and tell the balancer. It blocks until the resolver answers."""
        try:
            targets = self._name.resolve()
        except OSError as error:
            reason = f"{self._name.host}: {error.strerror or error}"
            self.balancer.resolution_failed(reason, time.monotonic())
        else:
            self.balancer.resolved(targets, time.monotonic())

    def closed(self) -> ServingError:
        """Return the error of calls to a closed client."""
        return ServingError(
            f"{self._server}, model {self._model!r}: the client is closed. Open another one.",
            details="the client is closed",
        )

    def no_time_left(self) -> ServingError:
        """Return the error of a conversation whose time budget is used up."""
        code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, "no time is left"
        return statuses.error_for_status(code, reason, self._server, self._model)
