"""A proxy that spreads calls over several servers behind one address, as Envoy does.

    python -m tests.model_servers.call_spreader 127.0.0.1:9000 127.0.0.2:8500 127.0.0.3:8500

A client sees one connection and cannot choose the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from tests.model_servers import servers as model_servers

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextlib.contextmanager
def call_spreader(servers: Sequence[str]) -> Iterator[str]:
    """Run the proxy in a process of its own; yield its address once it answers.

    Args:
      servers: HOST:PORT of each. They get the calls in turn, and may start later.
    """
    with model_servers.reserved_port() as port:
        address = f"127.0.0.1:{port}"
        argv = [sys.executable, "-m", "tests.model_servers.call_spreader", address, *servers]
        # Its stdin ends with this process, and it ends then.
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=model_servers.ROOT
        ) as process:
            assert process.stdout
            try:
                assert process.stdout.readline() == "ready\n"
                yield address
            finally:
                process.kill()


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
