"""Fake model servers as processes, behind one name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import grpc

from tests.model_servers.name_server import NameServer
from tests.model_servers.versions import MODEL, ForeignVersion, Model, Script, Version

ROOT = Path(__file__).parents[2]
_START_S = 60


class FakeServer:
    """One server at a fixed address. A change holds for all calls that begin after the method returns."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.script = Script()
        self._process: subprocess.Popen[str] | None = None

    def serve(
        self,
        *versions: Version | ForeignVersion,
        labels: Mapping[str, int] | None = None,
        loading: Sequence[int] = (),
        model: str = MODEL,
    ) -> None:
        """Serve these versions of a model, and no others. Another model may be served beside it.

        Args:
          labels: the number that each version label stands for.
          loading: the numbers of versions that GetModelStatus tells of, but that do not answer yet.
        """
        before = self.script.models.get(model, Model())
        loaded = {version.number: version for version in versions}
        ended = dict.fromkeys(({*before.versions, *before.others} - set(loaded)), "END")
        others = {**ended, **dict.fromkeys(loading, "LOADING")}
        served = Model(loaded, dict(labels or {}), others)
        self._follow(models={**self.script.models, model: served})

    def slow_down(self, delay_s: float) -> None:
        """Take this long for each Predict call."""
        self._follow(delay_s=delay_s)

    def limit_rows(self, max_rows: int) -> None:
        """Refuse requests with more rows, as a server with --enable_batching; 0 has no limit."""
        self._follow(max_rows=max_rows)

    def fail_next(self, code: grpc.StatusCode, calls: int = 1) -> None:
        """Fail the next Predict calls, once."""
        self._follow(failures=(code.name,) * calls)
        self.script = dataclasses.replace(self.script, failures=())

    def calls(self) -> int:
        """Return how many Predict calls this process has received."""
        return self._follow()

    def start(self) -> None:
        """Start the process again, with the script as it was; return once it answers."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process and return at once."""
        assert not self._process, f"{self.address}: the fake server is already running."
        argv = [sys.executable, "-m", "tests.model_servers.fake_server", self.address]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._send()

    def wait_until_ready(self) -> None:
        """Wait for a process that was launched."""
        self._receive()

    def kill(self) -> None:
        """End the process with SIGKILL: its connections are reset."""
        if self._process:
            self._process.kill()
            with self._process:  # close the pipes
                pass
            self._process = None

    def hang(self) -> None:
        """Stop the process with SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `hang`."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """End the process as TensorFlow Serving ends under an init process: calls in flight may finish."""
        self._signal(signal.SIGTERM)
        assert self._process
        with self._process:
            self._process.wait(timeout=30)
        self._process = None

    def _follow(self, **changes: object) -> int:
        self.script = dataclasses.replace(self.script, **changes)  # type: ignore[arg-type]  # by name
        if not self._process:
            return 0  # it reads the script when it starts
        self._send()
        return self._receive()

    def _send(self) -> None:
        assert self._process and self._process.stdin
        self._process.stdin.write(self.script.to_json() + "\n")
        self._process.stdin.flush()

    def _receive(self) -> int:
        assert self._process and self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], _START_S)
        line = self._process.stdout.readline() if ready else ""
        assert line, f"{self.address}: the fake server does not answer; is it hanging, or was it ended?"
        return int(line)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process, f"{self.address}: the fake server is not running."
        os.kill(self._process.pid, number)


class Servers:
    """Fake servers at 127.0.0.2, 127.0.0.3, … with one port, behind one name that lists them all at first.

    Attributes:
      name: the address for a client.
      names: the DNS server of the name.
    """

    def __init__(self, count: int) -> None:
        self._closing = contextlib.ExitStack()
        self.port = self._closing.enter_context(reserved_port())
        self._servers = [FakeServer(f"127.0.0.{host}:{self.port}") for host in range(2, 2 + count)]
        self.names = self._closing.enter_context(NameServer([]))
        self.name = self.names.uri(self.port)
        self.list_only(*self._servers)

    def list_only(self, *servers: FakeServer) -> None:
        """Let the name list these servers."""
        self.names.addresses = [server.address.rpartition(":")[0] for server in servers]

    def reset(self) -> None:
        """Make all servers run, listed and without versions, whatever a test did to them."""
        for server in self._servers:
            server.kill()
            server.script = Script()
            server.launch()
        for server in self._servers:
            server.wait_until_ready()
        self.list_only(*self._servers)

    def __iter__(self) -> Iterator[FakeServer]:
        return iter(self._servers)

    def __getitem__(self, index: int) -> FakeServer:
        return self._servers[index]

    def __enter__(self) -> Servers:
        for server in self._servers:
            self._closing.callback(server.kill)
        try:
            self.reset()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()


@contextlib.contextmanager
def fake_server(*versions: Version | ForeignVersion) -> Iterator[FakeServer]:
    """Yield a server with an address of its own, not started yet; kill it after the block."""
    with reserved_port() as port:
        server = FakeServer(f"127.0.0.1:{port}")
        server.serve(*versions)
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port that no other process is given meanwhile, though gRPC servers can bind it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def spreading_calls(servers: Sequence[str], address: str = "") -> Iterator[str]:
    """Run a proxy that gives calls to servers in turn; yield its address.

    A client sees one connection and cannot choose the server.

    Args:
      servers: HOST:PORT of each.
      address: where the proxy listens; a free port if empty.
    """
    with contextlib.ExitStack() as stack:
        address = address or f"127.0.0.1:{stack.enter_context(reserved_port())}"
        argv = [sys.executable, "-m", "tests.model_servers.call_spreader", address, *servers]
        # It ends with its stdin, should this process be killed.
        pipe = subprocess.PIPE
        process = stack.enter_context(subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=ROOT))
        stack.callback(process.kill)
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield address
