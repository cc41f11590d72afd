"""Model servers as programs at a fixed address, which a test ends and starts again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from serving_client import codec, wire
from tests.local_server import programs
from tests.model_servers.servers import reserved_port
from tests.model_servers.versions import MODEL

_START_S = 90


class RealServer:
    """`local_server` or TensorFlow Serving, one of `programs.PROGRAMS`, at a fixed address."""

    def __init__(self, program: str, shared: Path, port: int) -> None:
        self._program = program
        self._command = programs.command(program, shared)
        self._port = port
        self.address = f"127.0.0.1:{port}"
        self._log = shared / f"server-{port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, base_path: Path) -> None:
        """Start it and return at once."""
        argv = [
            *self._command,
            f"--port={self._port}",
            f"--model_name={MODEL}",
            f"--model_base_path={base_path}",
            f"--file_system_poll_wait_seconds={programs.POLL_S[self._program]}",
            "--grpc_max_threads=64",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)

    def wait_for_labels(self, labels: Sequence[str]) -> None:
        """Wait until a version with these labels answers."""
        self._wait_for(lambda card: card is not None and card["labels"] == list(labels))

    def wait_until_empty(self) -> None:
        """Wait until no version answers."""
        self._wait_for(lambda card: card is None)

    def end(self) -> None:
        """End it with SIGTERM."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            finally:
                self._process.kill()
            self._process = None

    def _wait_for(self, condition: Callable[[dict[str, Any] | None], bool]) -> None:
        deadline = time.monotonic() + _START_S
        while not condition(self._card()):
            assert self._process and self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2_000:]
            time.sleep(0.02)

    def _card(self) -> dict[str, Any] | None:
        """Return the card of the newest version; None if the server has none, or does not run."""
        request = codec.encode_predict_request(MODEL, "describe", {"query": [b"card"]})
        with grpc.insecure_channel(self.address) as channel:
            try:
                answer = channel.unary_unary(wire.PREDICT)(request, timeout=10)
            except grpc.RpcError:
                return None
        outputs = codec.decode_outputs(codec.decode_predict_response(answer))
        card: dict[str, Any] = json.loads(outputs["card"][0])
        return card


@contextlib.contextmanager
def real_server(program: str, shared: Path) -> Iterator[RealServer]:
    """Yield a server at an address of its own, not started yet; end it after the block.

    Args:
      shared: the directory that holds all base paths; the server's log is written there.
    """
    with reserved_port() as port:
        server = RealServer(program, shared, port)
        try:
            yield server
        finally:
            server.end()
