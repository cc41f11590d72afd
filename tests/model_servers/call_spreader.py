"""A proxy that spreads calls over several servers behind one address, as Envoy does; see `spreading_calls`.

    python -m tests.model_servers.call_spreader 127.0.0.1:9000 127.0.0.2:8500 127.0.0.3:8500

A client sees one connection and cannot choose the server.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import grpc

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _Spreader(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Hands each call to the next server and passes on its answer, byte for byte."""

    def __init__(self, servers: Sequence[str]) -> None:
        channels = [grpc.aio.insecure_channel(server, options=_UNLIMITED) for server in servers]
        self._in_turn = itertools.cycle(channels)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method: str = details.method

        async def forward(request: bytes, context: Any) -> bytes:
            channel = next(self._in_turn)
            try:
                answer: bytes = await channel.unary_unary(method)(request, timeout=context.time_remaining())
                return answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            raise AssertionError("context.abort raises")

        return grpc.unary_unary_rpc_method_handler(forward)


async def _main(address: str, servers: Sequence[str]) -> None:
    server = grpc.aio.server(handlers=[_Spreader(servers)], options=_UNLIMITED)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2:]))
