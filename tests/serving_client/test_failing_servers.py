"""Servers that are killed, hang, are slow, vanish from their name and come back, one after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import grpc
import pytest

from tests.model_servers import ASKING, Servers, Traffic, Version, asking_asyncio, asking_threads
from tests.model_servers.traffic import wait_for_each

# Calls between two changes, and how often everything is repeated.
PACES = [(30, 1), pytest.param((300, 4), marks=pytest.mark.soak)]


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Four servers that agree."""
    with Servers(4) as servers:
        for server in servers:
            server.serve(Version(1))
        yield servers


@contextlib.contextmanager
def callers(name: str) -> Iterator[list[Traffic]]:
    """Ask all the time with both kinds of client and both ways."""
    with contextlib.ExitStack() as stack:
        asks = (asking_threads(name, "images"), asking_asyncio(name, "encoded"))
        yield [stack.enter_context(Traffic(stack.enter_context(ask))) for ask in asks]


def gets_calls(servers: Servers, number: int) -> Callable[[], bool]:
    before = servers[number].calls()
    return lambda: servers[number].calls() > before + 10


def kill_and_start(servers: Servers, traffics: Sequence[Traffic], calls: int) -> None:
    servers[0].kill()
    wait_for_each(traffics, calls)
    servers[0].start()
    traffics[0].wait_until(gets_calls(servers, 0))


def hang_and_resume(servers: Servers, traffics: Sequence[Traffic], calls: int) -> None:
    servers[1].hang()
    wait_for_each(traffics, calls)
    servers[1].resume()
    traffics[0].wait_until(gets_calls(servers, 1))


def slow_down(servers: Servers, traffics: Sequence[Traffic], calls: int) -> None:
    servers[2].slow_down(0.1)
    wait_for_each(traffics, calls)
    servers[2].slow_down(0)


def refuse(servers: Servers, traffics: Sequence[Traffic], calls: int) -> None:
    """Servers and proxies that stop, or have too much to do, end calls with these statuses."""
    for name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED"):
        for server in list(servers)[:3]:
            server.fail_next(grpc.StatusCode[name])
        wait_for_each(traffics, calls // 3)


def terminate_and_replace(servers: Servers, traffics: Sequence[Traffic], calls: int) -> None:
    """A pod ends and another with a new address takes its place."""
    servers.list_only(*list(servers)[1:])
    servers[0].terminate()
    wait_for_each(traffics, calls)
    servers[0].start()
    servers.list_only(*servers)
    traffics[0].wait_until(gets_calls(servers, 0))


def empty_name(servers: Servers, traffics: Sequence[Traffic], calls: int) -> None:
    """The name has no addresses for a while, as when no pod is ready; the servers run on."""
    servers.list_only()
    asked = servers.names.questions
    traffics[0].wait_until(lambda: servers.names.questions > asked)
    wait_for_each(traffics, calls)
    servers.list_only(*servers)
    wait_for_each(traffics, calls)


TROUBLES = (kill_and_start, hang_and_resume, slow_down, refuse, terminate_and_replace, empty_name)


@pytest.mark.parametrize("pace", PACES)
def test_no_call_fails_while_one_server_works(servers: Servers, pace: tuple[int, int]) -> None:
    calls, rounds = pace
    with callers(servers.name) as traffics:
        wait_for_each(traffics, calls)
        for trouble in TROUBLES * rounds:
            trouble(servers, traffics, calls)
            for traffic in traffics:
                failed = traffic.failed
                assert not failed, f"{trouble.__name__}: {len(failed)} calls: {failed[0].error}"
                assert not traffic.wrong


def test_clients_come_back_after_all_servers_were_gone(servers: Servers) -> None:
    """The name is empty for a while, and lists other addresses afterwards."""
    first, second = list(servers)[:2], list(servers)[2:]
    for server in second:
        server.kill()
    servers.list_only(*first)
    with callers(servers.name) as traffics:
        wait_for_each(traffics, 20)
        servers.list_only()
        for server in first:
            server.kill()
        for traffic in traffics:
            wait_for_one(traffic, failed=True)
        for server in second:
            server.start()
        servers.list_only(*second)
        for traffic in traffics:
            wait_for_one(traffic, failed=False)
        back_s = time.monotonic()
        wait_for_each(traffics, 20)
        for traffic in traffics:
            assert not traffic.failed_since(back_s)
            assert not traffic.wrong


@pytest.mark.parametrize("kind", ASKING)
def test_calls_wait_for_the_only_server_that_has_their_version(servers: Servers, kind: str) -> None:
    """It pauses for a moment, as in a long garbage collection, and the other one lacks the version."""
    both, old_only = servers[0], servers[1]
    both.serve(Version(1), Version(2))
    servers.list_only(both, old_only)
    with ASKING[kind](servers.name, "images", version=2) as ask, Traffic(ask) as traffic:
        for _ in range(3):
            traffic.wait_for(30)
            both.hang()
            time.sleep(1.5)  # long enough to look dead
            both.resume()
        traffic.wait_for(60)
    assert not traffic.failed, f"{len(traffic.failed)} of {len(traffic.answers)}: {traffic.failed[0].error}"
    assert {answer.version for answer in traffic.answers} == {2}


def wait_for_one(traffic: Traffic, *, failed: bool) -> None:
    """Wait until a further call fails, or succeeds."""
    before = len(traffic.answers)
    traffic.wait_until(lambda: any(bool(answer.error) == failed for answer in traffic.answers[before:]))
