"""A fake of TensorFlow Serving in a process of its own; `FakeServer` in servers.py starts and scripts it.

    python -m tests.model_servers.fake_server 127.0.0.2:8500

It reads a `Script` from each line of stdin and answers each with a line: the number of Predict calls so far.
It ends when stdin ends.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import grpc

from tests.model_servers import fake_answers
from tests.model_servers.fake_signatures import Refusal
from tests.model_servers.versions import Script, parse_script

# As in k8s/serving.yaml, but sooner: closed connections make clients resolve the server's name again.
_MAX_CONNECTION_AGE_MS = 2_000
# HealthCheckResponse(status=SERVING).
_SERVING = b"\x08\x01"


class FakeServing:
    """The services of one server. Its answers are those of the current script."""

    def __init__(self) -> None:
        self.script = Script()
        self.calls = 0
        self._failures: list[str] = []

    def follow(self, script: Script) -> None:
        """Do as the script says from the next call on."""
        self.script = script
        self._failures = list(script.failures)

    async def predict(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        if self.script.delay_s:
            await asyncio.sleep(self.script.delay_s)
        if self._failures:
            await context.abort(grpc.StatusCode[self._failures.pop(0)], "scripted failure")
        return await self._answer(fake_answers.predict, request, context)

    async def status(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return await self._answer(fake_answers.status, request, context)

    async def metadata(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return await self._answer(fake_answers.metadata, request, context)

    async def check_health(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return _SERVING

    async def _answer(
        self, answer: Callable[[Script, bytes], bytes], request: bytes, context: grpc.aio.ServicerContext
    ) -> bytes:
        try:
            return answer(self.script, request)
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.message)
        raise AssertionError("context.abort raises")


def _handlers(serving: FakeServing) -> list[grpc.GenericRpcHandler]:
    services = {
        "tensorflow.serving.PredictionService": {
            "Predict": serving.predict,
            "GetModelMetadata": serving.metadata,
        },
        "tensorflow.serving.ModelService": {"GetModelStatus": serving.status},
        "grpc.health.v1.Health": {"Check": serving.check_health},
    }
    return [
        grpc.method_handlers_generic_handler(
            service, {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        )
        for service, methods in services.items()
    ]


async def _main(address: str) -> None:
    serving = FakeServing()
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
    ]
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    # The ports of TensorFlow Serving open once the first versions have loaded.
    serving.follow(parse_script((await lines.readline()).decode()))
    server = grpc.aio.server(handlers=_handlers(serving), options=options)
    server.add_insecure_port(address)
    await server.start()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    reading = asyncio.create_task(_read_scripts(serving, lines))
    print(serving.calls, flush=True)
    await asyncio.wait([reading, asyncio.create_task(terminated.wait())], return_when=asyncio.FIRST_COMPLETED)
    await server.stop(grace=5)


async def _read_scripts(serving: FakeServing, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        serving.follow(parse_script(line.decode()))
        print(serving.calls, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
