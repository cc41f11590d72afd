"""The connections to real servers: those that hang, die, move and come back; closing; what a call carries."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving_client import DeadlineExceeded, ServerUnavailable, ServingError, Tls, wire
from serving_client.calls import Call
from serving_client.transport import dns_query
from serving_client.transport.tasks import AioTransport
from serving_client.transport.threads import Transport
from tests.model_servers import NameServer
from tests.model_servers.servers import reserved_port
from tests.serving_client.test_channel import pem

CALL = Call(wire.PREDICT, b"ping")
DEADLINE_S = 10.0
# A call that waits for a hung server takes the whole deadline. Shorter delays may be the machine's.
SLOW_S = DEADLINE_S / 10


class Server:
    """A server in this process that answers every call with its address.

    Attributes:
      calls: how many it has received.
      metadata: that of the last call.
      authority: that of the last call.
      fail: the statuses of the next calls.
      released: while it is clear, calls wait.
      cancelled: set when the caller of a waiting call has gone away.
    """

    def __init__(
        self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.calls = 0
        self.metadata: dict[str, str | bytes] = {}
        self.authority = ""
        self.fail: list[tuple[grpc.StatusCode, str]] = []
        self.released, self.cancelled = threading.Event(), threading.Event()
        self.released.set()
        handler = grpc.unary_unary_rpc_method_handler(self._predict)
        service = grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService", {"Predict": handler}
        )
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool, [service])
        if credentials:
            self.port = self._server.add_secure_port(address, credentials)
        else:
            self.port = self._server.add_insecure_port(address)
        self.address = f"{address.rpartition(':')[0]}:{self.port}"
        self._server.start()

    def _predict(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        context.add_callback(self._note_end)
        self.metadata = dict(context.invocation_metadata())
        self.authority = context._rpc_event.call_details.host.decode()  # gRPC has no public way
        if self.fail:
            context.abort(*self.fail.pop(0))
        self.released.wait(30)
        return self.address.encode()

    def _note_end(self) -> None:
        if not self.released.is_set():
            self.cancelled.set()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.released.set()
        self._server.stop(None).wait()
        self._pool.shutdown()


class AioCaller:
    """An `AioTransport` in an event loop of its own, which threads can call."""

    def __init__(self, server: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._transport = AioTransport(server, "m", **options)

    def conversation(self, timeout_s: float, metadata: Any = ()) -> Any:
        conversation = self._transport.conversation(timeout_s, metadata)
        caller = self

        class Blocking:
            def send(self, call: Call) -> bytes:
                response: bytes = caller._run(conversation.send(call))
                return response

            def pause(self, seconds: float) -> None:
                caller._run(conversation.pause(seconds))

        return Blocking()

    def close(self) -> None:
        self._run(self._transport.close())

    def stop(self) -> list[asyncio.Task[Any]]:
        """End the loop; return the tasks that are left."""

        async def others() -> list[asyncio.Task[Any]]:
            return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

        left: list[asyncio.Task[Any]] = self._run(others())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        return left

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


Connect = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A function that opens a transport to a server; at the end they are closed, and nothing is left."""
    opened: list[Any] = []

    def open_one(server: str, **options: Any) -> Any:
        opened.append(
            Transport(server, "m", **options) if request.param == "threads" else AioCaller(server, **options)
        )
        return opened[-1]

    before = set(threading.enumerate())
    yield open_one
    left: list[Any] = []
    for transport in opened:
        transport.close()
        if isinstance(transport, AioCaller):
            left += transport.stop()
    assert not left
    deadline = time.monotonic() + 5
    while extra := [thread for thread in threading.enumerate() if thread not in before and is_ours(thread)]:
        assert time.monotonic() < deadline, extra
        time.sleep(0.01)


def is_ours(thread: threading.Thread) -> bool:
    return "_poll_wrapper" not in thread.name  # grpc.aio keeps one for the whole process


class Load:
    """Threads that call until the `with` block ends."""

    def __init__(self, transport: Any, callers: int = 4) -> None:
        self.answers: list[tuple[float, str]] = []
        self.failed: list[ServingError] = []
        self._transport = transport
        self._ended = False
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        while not self._ended:
            started = time.monotonic()
            try:
                answer = self._transport.conversation(DEADLINE_S).send(CALL).decode()
            except ServingError as error:
                self.failed.append(error)
            else:
                self.answers.append((time.monotonic() - started, answer))

    def wait_for(self, calls: int) -> list[str]:
        """Wait for more answers; return which servers gave them."""
        start = len(self.answers)
        deadline = time.monotonic() + 60
        while len(self.answers) < start + calls:
            assert time.monotonic() < deadline, self.failed[-3:]
            time.sleep(0.005)
        return [server for _, server in self.answers[start:]]

    def wait_until_shares_are_fair(self, servers: int) -> None:
        """Wait until each server answers its part of the calls."""
        deadline = time.monotonic() + 60
        while True:
            counts = Counter(self.wait_for(400))
            if len(counts) == servers and min(counts.values()) > 0.8 * max(counts.values()):
                return
            assert time.monotonic() < deadline, counts

    @property
    def slow_share(self) -> float:
        return sum(seconds > SLOW_S for seconds, _ in self.answers) / len(self.answers)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join()


class Process:
    """A server like `Server`, in a process that can be stopped and killed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "tests.serving_client.test_transport", self.address]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        with self._process:
            pass

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        yield [stack.enter_context(Process(f"127.0.0.{host}:{port}")) for host in (2, 3)]


def all_of(servers: list[Any]) -> str:
    return "ipv4:" + ",".join(server.address for server in servers)


CALLS = [2_000, pytest.param(20_000, marks=pytest.mark.soak)]


@pytest.mark.parametrize("calls", CALLS)
def test_a_hung_server_fails_no_call_and_slows_down_few(
    connect: Connect, processes: list[Process], calls: int
) -> None:
    with Load(connect(all_of(processes))) as load:
        load.wait_for(200)
        processes[0].signal(signal.SIGSTOP)
        load.wait_for(calls)
        processes[0].signal(signal.SIGCONT)
        load.wait_until_shares_are_fair(2)
    assert not load.failed
    assert load.slow_share <= 0.01


def test_a_call_that_another_server_has_answered_is_cancelled(connect: Connect) -> None:
    with Server() as first, Server() as second:
        transport = connect(all_of([first, second]))
        for _ in range(10):
            transport.conversation(DEADLINE_S).send(CALL)
        time.sleep(0.2)  # the server notes the end of a call after the client
        first.released.clear()
        calls = first.calls
        while first.calls == calls:
            assert transport.conversation(DEADLINE_S).send(CALL).decode() == second.address
        assert first.cancelled.wait(DEADLINE_S / 2)


def test_a_server_that_is_slow_to_come_back_gets_one_copy_at_a_time(connect: Connect) -> None:
    with Server() as first, Server() as second:
        transport = connect(all_of([first, second]))
        for _ in range(10):
            transport.conversation(DEADLINE_S).send(CALL)
        first.fail = [(grpc.StatusCode.UNAVAILABLE, "restarts")]
        first.released.clear()
        while first.fail:
            transport.conversation(DEADLINE_S).send(CALL)
        calls = first.calls
        end = time.monotonic() + 2.5  # its copies begin after a rest of 1 s
        while time.monotonic() < end:
            assert transport.conversation(DEADLINE_S).send(CALL).decode() == second.address
        assert first.calls == calls + 1
        first.released.set()
        with Load(transport) as load:
            load.wait_until_shares_are_fair(2)


def test_a_server_that_is_killed_and_started_again_gets_its_share(
    connect: Connect, processes: list[Process]
) -> None:
    with Load(connect(all_of(processes))) as load:
        load.wait_for(200)
        processes[0].kill()
        assert set(load.wait_for(1_000)[-900:]) == {processes[1].address}
        processes[0].start()
        load.wait_until_shares_are_fair(2)
    assert not load.failed
    assert load.slow_share <= 0.01


@pytest.mark.parametrize("empty_s", [4, pytest.param(170, marks=pytest.mark.soak)])
def test_callers_are_back_soon_after_the_name_has_addresses_again(connect: Connect, empty_s: float) -> None:
    with NameServer(["127.0.0.2"]) as names, reserved_port() as port, contextlib.ExitStack() as stack:
        first = stack.enter_context(Process(f"127.0.0.2:{port}"))
        transport = connect(names.uri(port))
        transport.conversation(DEADLINE_S).send(CALL)
        fresh = connect(names.uri(port))  # one that has never had an address
        names.addresses = []
        first.kill()
        with Load(transport) as load, Load(fresh) as fresh_load:
            time.sleep(empty_s)
            assert not fresh_load.answers
            stack.enter_context(Process(f"127.0.0.3:{port}"))
            names.addresses = ["127.0.0.3"]
            started = time.monotonic()
            load.wait_for(50)
            fresh_load.wait_for(50)
            assert time.monotonic() - started < DEADLINE_S / 2
    assert all("DNS resolution failed: serving.example" in str(error) for error in fresh_load.failed)


def test_a_name_without_addresses_is_retried_until_it_has_one(connect: Connect) -> None:
    with NameServer([]) as names, Server() as server:
        timer = threading.Timer(0.5, lambda: names.addresses.append("127.0.0.1"))
        timer.start()
        assert connect(names.uri(server.port)).conversation(DEADLINE_S).send(CALL)
        timer.join()


def test_a_name_that_never_has_an_address_says_why(connect: Connect) -> None:
    with (
        NameServer([]) as names,
        pytest.raises(ServerUnavailable, match=r"serving\.example.*no address") as caught,
    ):
        connect(names.uri(1)).conversation(DEADLINE_S).send(CALL)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_waiting_until_ready_outlasts_the_retries(connect: Connect) -> None:
    with NameServer([]) as names, pytest.raises(DeadlineExceeded, match="no address"):
        connect(names.uri(1), wait_for_ready=True).conversation(DEADLINE_S / 2).send(CALL)


def test_a_node_that_drops_all_packets_costs_little(connect: Connect) -> None:
    with Server("127.0.0.3:0") as server, socket.socket() as deaf, contextlib.ExitStack() as stack:
        deaf.bind(("127.0.0.2", server.port))
        deaf.listen(0)  # once its queue is full, the kernel drops what asks for a connection
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        with Load(connect(f"ipv4:127.0.0.2:{server.port},{server.address}")) as load:
            load.wait_for(1_000)
    assert not load.failed
    assert load.slow_share <= 0.01


def test_a_dns_server_that_falls_silent_delays_no_call(connect: Connect) -> None:
    with Server() as server:
        with NameServer(["127.0.0.1"]) as names:
            transport = connect(names.uri(server.port))
            transport.conversation(DEADLINE_S).send(CALL)
        with Load(transport) as load:
            end = time.monotonic() + 6  # the next resolution falls into it
            while time.monotonic() < end:
                load.wait_for(100)
    assert not load.failed
    assert max(seconds for seconds, _ in load.answers) < dns_query._TIMEOUT_S


def test_an_address_that_leaves_the_name_loses_its_connection(connect: Connect) -> None:
    with reserved_port() as port, Server(f"127.0.0.2:{port}") as first, Server(f"127.0.0.3:{port}") as second:
        with (
            NameServer(["127.0.0.2", "127.0.0.3"]) as names,
            Load(connect(names.uri(port)), callers=1) as load,
        ):
            load.wait_until_shares_are_fair(2)
            names.addresses = ["127.0.0.3"]
            deadline = time.monotonic() + 20
            while first.address in load.wait_for(50):
                assert time.monotonic() < deadline
            calls = first.calls
            assert set(load.wait_for(500)) == {second.address}
            assert first.calls == calls
        assert not load.failed


@pytest.mark.parametrize("family", ["127.0.0.1", "[::1]"])
def test_localhost_with_a_server_on_one_family_only(
    connect: Connect, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "[::1]" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    both = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    # Not every machine's localhost has both addresses.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: both)
    with Server(f"{family}:0") as server, Load(connect(f"localhost:{server.port}")) as load:
        load.wait_for(500)
    assert not load.failed


def test_closing_ends_waiting_calls_at_once(connect: Connect) -> None:
    with Server() as server, ThreadPoolExecutor() as pool:
        server.released.clear()
        transport = connect(server.address)
        calls = [pool.submit(transport.conversation(DEADLINE_S).send, CALL) for _ in range(4)]
        pauses = [pool.submit(transport.conversation(2 * DEADLINE_S).pause, DEADLINE_S) for _ in range(2)]
        while server.calls < 4:
            time.sleep(0.01)
        started = time.monotonic()
        transport.close()
        errors = [future.exception(timeout=DEADLINE_S) for future in (*calls, *pauses)]
        assert time.monotonic() - started < DEADLINE_S / 5
        for error in errors:
            assert type(error) is ServingError
            assert "the client is closed" in str(error)


def test_a_closed_client_refuses_calls_and_closes_again(connect: Connect) -> None:
    with Server() as server:
        transport = connect(server.address)
        conversation = transport.conversation(DEADLINE_S)
        conversation.send(CALL)
        transport.close()
        transport.close()
        for later in (conversation, transport.conversation(DEADLINE_S)):
            with pytest.raises(ServingError, match="the client is closed"):
                later.send(CALL)
            with pytest.raises(ServingError, match="the client is closed"):
                later.pause(0.1)


def test_closing_ends_calls_that_wait_for_an_address(connect: Connect) -> None:
    with NameServer([]) as names, ThreadPoolExecutor() as pool:
        transport = connect(names.uri(1), wait_for_ready=True)
        call = pool.submit(transport.conversation(DEADLINE_S).send, CALL)
        while not names.questions:
            time.sleep(0.01)
        transport.close()
        assert "the client is closed" in str(call.exception(timeout=DEADLINE_S / 2))


def test_calls_and_pauses_share_a_budget(connect: Connect) -> None:
    with Server() as server:
        conversation = connect(server.address).conversation(1)
        conversation.send(CALL)
        conversation.pause(0.6)
        with pytest.raises(DeadlineExceeded):
            conversation.pause(0.5)
        server.released.clear()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            conversation.send(CALL)
        assert time.monotonic() - started < 0.9
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_call_carries_metadata_authority_and_what_interceptors_add(request: pytest.FixtureRequest) -> None:
    def with_header(details: grpc.ClientCallDetails) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), ("x-added", "yes")])

    class Adding(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(with_header(details), request)

    class AioAdding(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(with_header(details), request)

    def check(server: Server) -> None:
        assert server.metadata["authorization"] == "Bearer of the client"
        assert server.metadata["x-request"] == "1"
        assert server.metadata["x-added"] == "yes"
        assert "gzip" in str(server.metadata.get("grpc-accept-encoding", "gzip"))
        assert server.authority == f"serving.example:{server.port}"
        server.metadata = {}

    mine = [("authorization", "Bearer of the client")]
    with Server() as server, NameServer(["127.0.0.1"]) as names:
        transport = Transport(names.uri(server.port), "m", metadata=mine, interceptors=[Adding()])
        transport.conversation(DEADLINE_S, [("x-request", "1")]).send(CALL)
        transport.close()
        check(server)
        caller = AioCaller(names.uri(server.port), metadata=mine, interceptors=[AioAdding()])
        caller.conversation(DEADLINE_S, [("x-request", "1")]).send(CALL)
        caller.close()
        caller.stop()
        check(server)


def test_requests_are_compressed(connect: Connect) -> None:
    sizes: list[int] = []

    def count(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            sizes.append(len(data))
            target.sendall(data)

    with Server() as server, socket.create_server(("127.0.0.1", 0)) as relay:
        transport = connect(f"127.0.0.1:{relay.getsockname()[1]}", compression=grpc.Compression.Gzip)

        def serve() -> None:
            client, _ = relay.accept()
            with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
                back = threading.Thread(target=count, args=(upstream, client))
                back.start()
                count(client, upstream)
                upstream.shutdown(socket.SHUT_WR)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        transport.conversation(DEADLINE_S).send(Call(wire.PREDICT, bytes(1_000_000)))
        transport.close()
        thread.join()
    assert sum(sizes) < 100_000


def test_tls_is_verified_against_the_name_not_the_address(connect: Connect, tmp_path: Path) -> None:
    files = pem(tmp_path)
    pair = (files["server.key"].read_bytes(), files["server.pem"].read_bytes())
    tls = Tls(root_certificates=files["ca.pem"])  # the certificate is that of serving.example
    with (
        Server("127.0.0.1:0", grpc.ssl_server_credentials([pair])) as server,
        NameServer(["127.0.0.1"]) as names,
    ):
        uri = names.uri(server.port)
        connect(uri, tls=tls).conversation(DEADLINE_S).send(CALL)
        assert server.authority == f"serving.example:{server.port}"
        with pytest.raises((ServerUnavailable, DeadlineExceeded), match="Verification"):
            connect(uri.replace("serving", "other"), tls=tls).conversation(1).send(CALL)
        other = Tls(root_certificates=files["ca.pem"], server_name="serving.example")
        connect(f"127.0.0.1:{server.port}", tls=other).conversation(DEADLINE_S).send(CALL)


def test_unix_sockets(connect: Connect, tmp_path: Path) -> None:
    with Server(f"unix:{tmp_path}/serving"):
        assert connect(f"unix:{tmp_path}/serving").conversation(DEADLINE_S).send(CALL)


def test_cancelling_a_task_cancels_its_call_and_leaves_no_task() -> None:
    async def main(server: Server) -> None:
        transport = AioTransport(server.address, "m")
        task = asyncio.create_task(transport.conversation(DEADLINE_S).send(CALL))
        while not server.calls:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < DEADLINE_S / 2
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert await asyncio.to_thread(server.cancelled.wait, DEADLINE_S)
        await transport.close()

    with Server() as server:
        server.released.clear()
        asyncio.run(main(server))


def test_an_asyncio_transport_is_made_outside_a_loop_and_outlives_one() -> None:
    with Server() as server:
        transport = AioTransport(server.address, "m")
        for _ in range(2):
            assert asyncio.run(transport.conversation(DEADLINE_S).send(CALL))
        asyncio.run(transport.close())
        gc.collect()


def test_ctrl_c_ends_a_waiting_call_at_once() -> None:
    script = (
        "import sys; from tests.serving_client.test_transport import CALL, Transport\n"
        "print('ready', flush=True)\n"
        "Transport(sys.argv[1], 'm').conversation(60).send(CALL)"
    )
    with Server() as server:
        server.released.clear()
        argv = [sys.executable, "-c", script, server.address]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            while not server.calls:
                time.sleep(0.01)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
        assert "KeyboardInterrupt" in stderr
        assert time.monotonic() - started < 5


def main(address: str) -> None:
    with Server(address):
        print("ready", flush=True)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
