"""Where calls go, in simulated time: which server, when again, and when not."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Callable

import grpc
import pytest

from serving_client import DeadlineExceeded, InvalidRequest, ModelNotFound, ServerError, ServerUnavailable
from serving_client.errors import ServingError
from serving_client.transport.balancing import Attempt, Balancer, Server
from serving_client.transport.delivery import Delivery

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full; task size is 1"
THREADS_BUSY = "Server Threadpool Exhausted"

Behaviour = Callable[[], tuple[float, grpc.StatusCode, str] | None]
"""What a server does with a call: seconds until it ends, status, details. None: nothing at all."""


def answers(seconds: float = 0.01) -> Behaviour:
    return lambda: (seconds, OK, "")


def fails(code: grpc.StatusCode, details: str = "told to fail") -> Behaviour:
    return lambda: (0.001, code, details)


def hangs() -> None:
    return None


def fails_then(failures: int, code: grpc.StatusCode, details: str = "") -> Behaviour:
    """Fail some calls, then answer."""
    left = itertools.chain([fails(code, details)] * failures, itertools.repeat(answers()))
    return lambda: next(left)()


@dataclasses.dataclass(frozen=True)
class Made:
    """A call that has ended: what it was sent to and when, how long it took, and its error."""

    sent: list[tuple[float, str]]
    seconds: float
    answered_by: Server | None
    error: ServingError | None

    @property
    def targets(self) -> list[str]:
        return [target for _, target in self.sent]


class World:
    """Servers with scripted behaviour, and a clock that jumps from event to event."""

    def __init__(self, **behaviours: Behaviour) -> None:
        self.behaviours = behaviours
        self.balancer = Balancer(behaviours)
        self.now = 1_000.0
        self._events: list[tuple[float, int, Attempt, grpc.StatusCode, str]] = []
        self._order = itertools.count()

    def call(
        self,
        timeout_s: float = 10,
        *,
        size: int = 1_000,
        same_server: bool = False,
        last_server: Server | None = None,
        wait_for_ready: bool = False,
    ) -> Made:
        start = self.now
        delivery = Delivery(
            self.balancer,
            server="name:1",
            model="m",
            wait_for_ready=wait_for_ready,
            size=size,
            same_server=same_server,
            last_server=last_server,
            now=self.now,
            timeout_s=timeout_s,
        )
        sent: list[tuple[float, str]] = []
        error = None
        try:
            while True:
                step = delivery.next_step(self.now)
                if isinstance(step, Attempt):
                    sent.append((self.now - start, step.server.target))
                    self._send(step, delivery.deadline)
                    continue
                ended = self._next_event(self.now + step)
                if ended and ended[0] in delivery.in_flight and delivery.end(*ended, None):
                    break
        except ServingError as caught:
            error = caught
        for attempt in delivery.in_flight:
            if not attempt.is_probe:
                self._cancel(attempt)
        return Made(sent, self.now - start, delivery.last_server, error)

    def calls(self, number: int) -> Counter[str]:
        """Make calls one after the other; return how many each server answered."""
        made = [self.call() for _ in range(number)]
        assert not [one.error for one in made if one.error]
        return Counter(one.answered_by.target for one in made if one.answered_by)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self._next_event(end)

    def _send(self, attempt: Attempt, deadline: float) -> None:
        done = self.behaviours[attempt.server.target]()
        if done is None or self.now + done[0] > deadline:
            done = (deadline - self.now, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        seconds, code, details = done
        heapq.heappush(self._events, (self.now + seconds, next(self._order), attempt, code, details))

    def _next_event(self, until: float) -> tuple[Attempt, grpc.StatusCode, str] | None:
        """Let time pass until an attempt ends, but not longer than `until`."""
        if not self._events or self._events[0][0] > until:
            self.now = until
            return None
        self.now, _, attempt, code, details = heapq.heappop(self._events)
        self.balancer.end(attempt, code, details, self.now)
        return attempt, code, details

    def _cancel(self, attempt: Attempt) -> None:
        self._events = [event for event in self._events if event[2] is not attempt]
        heapq.heapify(self._events)
        self.balancer.end(attempt, grpc.StatusCode.CANCELLED, "", self.now)


def test_servers_take_turns() -> None:
    world = World(a=answers(), b=answers(), c=answers())
    world.calls(10)
    assert set(world.calls(300).values()) == {100}


def test_a_call_goes_on_at_once_on_another_server_and_the_failed_one_rests() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = fails(UNAVAILABLE)
    made = [world.call() for _ in range(50)]
    assert not any(one.error for one in made)
    assert max(one.seconds for one in made) < 0.02
    assert sum(one.targets.count("a") for one in made) == 1


def test_a_server_that_failed_is_tried_again_with_copies_only_until_it_answers() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = fails(UNAVAILABLE)
    made = []
    while world.now < 1_010:
        made.append(world.call())
        world.wait(0.1)
    tries = [one for one in made if "a" in one.targets]
    assert 8 <= len(tries) <= 11  # once a second
    assert all(set(one.targets) == {"a", "b"} for one in tries)
    world.behaviours["a"] = answers()
    world.wait(1)
    world.calls(2)
    assert world.calls(100) == {"a": 50, "b": 50}


def test_a_silent_server_costs_one_slow_call() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = hangs
    slow = 0
    while world.now < 1_060:
        made = world.call()
        assert not made.error
        slow += made.seconds > 0.02
        world.wait(0.05)
    assert slow == 1
    world.behaviours["a"] = answers()
    world.wait(10)
    world.calls(2)
    assert world.calls(100) == {"a": 50, "b": 50}


def test_a_server_that_was_silent_gets_its_share_as_soon_as_it_answers_what_waits() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = lambda: (5, OK, "")  # stopped now, continues in 5 s
    world.calls(100)
    world.wait(1)
    world.calls(100)
    world.behaviours["a"] = answers()
    world.wait(5)
    assert world.calls(100) == {"a": 50, "b": 50}


def test_a_new_server_gets_calls_of_its_own_only_after_an_answer() -> None:
    world = World(a=answers())
    world.calls(3)
    world.behaviours["b"] = hangs
    world.balancer.resolved(["a", "b"], world.now)
    assert max(world.call().seconds for _ in range(100)) < 0.02
    world.wait(10)
    world.behaviours["b"] = answers()
    world.calls(2)
    assert world.calls(100) == {"a": 50, "b": 50}


def test_slow_answers_are_not_silence() -> None:
    world = World(a=answers(5), b=answers(5))
    world.calls(4)
    made = [world.call() for _ in range(50)]
    assert all(len(one.sent) == 1 for one in made)


def test_calls_of_another_size_may_take_longer() -> None:
    world = World(a=answers(0.01), b=answers(0.01))
    world.calls(100)
    world.behaviours = {"a": answers(2), "b": answers(2)}
    for _ in range(3):
        assert len(world.call(size=1_000_000).sent) == 1


def test_servers_that_are_all_slow_get_few_copies() -> None:
    world = World(a=answers(), b=answers())
    world.calls(100)
    world.behaviours = {"a": answers(4), "b": answers(4)}
    made = [world.call() for _ in range(20)]
    assert not any(one.error for one in made)
    assert sum(len(one.sent) - 1 for one in made) <= 4


def test_silent_servers_get_no_copies() -> None:
    world = World(a=hangs, b=hangs)
    assert Counter(world.call().targets) == {"a": 1, "b": 1}
    assert len(world.call().sent) == 1


@pytest.mark.parametrize("turns", [10, 11])
def test_if_all_servers_are_silent_the_one_that_was_heard_last_is_asked(turns: int) -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = hangs
    world.calls(turns)
    a, b = world.balancer.servers
    waiting = world.balancer.begin(b, 1_000, 10, world.now)
    world.wait(1)
    assert world.balancer.is_silent(waiting, world.now)
    assert a.silent
    assert world.call().targets == ["b"]


def test_one_late_answer_of_a_server_that_hung_does_not_make_the_next_hung_one_slower() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = world.behaviours["b"] = answers(4)
    world.call()
    world.behaviours |= {"a": answers(), "b": answers()}
    world.calls(10)
    world.behaviours["a"] = hangs
    assert max(world.call().seconds for _ in range(4)) < 0.3


def test_what_a_copy_for_a_new_server_is_answered_fails_no_call() -> None:
    world = World(a=answers(0.1))
    world.calls(3)
    world.behaviours["b"] = fails(grpc.StatusCode.INTERNAL)
    world.balancer.resolved(["a", "b"], world.now)
    made = world.call()
    assert (made.targets, made.error) == (["a", "b"], None)


def test_a_slow_server_answers_although_the_only_other_one_is_down() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours = {"a": answers(6), "b": fails(UNAVAILABLE)}
    made = [world.call() for _ in range(4)]
    assert not any(one.error for one in made)


def test_one_server_gets_no_copies() -> None:
    world = World(a=answers())
    world.calls(10)
    world.behaviours["a"] = answers(8)
    assert world.call().targets == ["a"]


def test_a_call_outlives_two_silent_servers_of_three() -> None:
    world = World(a=answers(), b=answers(), c=answers())
    world.calls(10)
    world.behaviours |= {"a": hangs, "b": hangs}
    made = [world.call() for _ in range(200)]
    assert not any(one.error for one in made)
    assert sum(one.seconds > 0.02 for one in made) <= 2


@pytest.mark.parametrize(("code", "details"), [(UNAVAILABLE, QUEUE_FULL), (EXHAUSTED, THREADS_BUSY)])
def test_an_overloaded_server_is_tried_again_and_stays_trusted(code: grpc.StatusCode, details: str) -> None:
    world = World(a=answers())
    world.calls(3)
    world.behaviours["a"] = fails_then(3, code, details)
    made = world.call()
    assert made.targets == ["a"] * 4
    waits = [after - before for (before, _), (after, _) in itertools.pairwise(made.sent)]
    assert waits == pytest.approx([0.1, 0.3, 0.9], rel=0.3)
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours["a"] = fails(code, details)
    assert sum("a" in world.call().targets for _ in range(100)) == 50


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        (UNAVAILABLE, "connection refused", ServerUnavailable),
        (UNAVAILABLE, QUEUE_FULL, ServerUnavailable),
        (EXHAUSTED, THREADS_BUSY, ServerUnavailable),
        (grpc.StatusCode.CANCELLED, "by a server that stops", ServerError),
    ],
)
def test_each_server_is_tried_five_times(
    code: grpc.StatusCode, details: str, error: type[ServingError]
) -> None:
    world = World(a=fails(code, details), b=fails(code, details))
    made = world.call()
    assert type(made.error) is error
    assert (made.error.code, made.error.details) == (code, details)
    assert Counter(made.targets) == {"a": 5, "b": 5}
    assert 2.5 < made.seconds < 4.2


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        (INVALID, "Expects arg[0] to be float", InvalidRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, "Serving signature key", InvalidRequest),
        (grpc.StatusCode.INTERNAL, "", ServerError),
        (grpc.StatusCode.UNAUTHENTICATED, "", ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, "", ServerError),
        (EXHAUSTED, "SERVER: Received message larger than max (70000 vs. 4096)", InvalidRequest),
    ],
)
def test_does_not_retry_what_cannot_succeed(
    code: grpc.StatusCode, details: str, error: type[ServingError]
) -> None:
    made = World(a=fails(code, details), b=fails(code, details)).call()
    assert type(made.error) is error
    assert (made.error.code, made.error.details, len(made.sent)) == (code, details, 1)


def test_a_message_that_is_too_large_names_the_sizes() -> None:
    made = World(a=fails(EXHAUSTED, "Sent message larger than max (70000 vs. 4096)")).call()
    assert "70,000" in str(made.error)
    assert "4,096" in str(made.error)
    assert "fewer or smaller images" in str(made.error)


@pytest.mark.parametrize(
    ("code", "details"),
    [(NOT_FOUND, "Servable not found"), (INVALID, "Unrecognized servable version label: stable")],
)
def test_what_one_server_does_not_have_is_asked_once_of_each_other(
    code: grpc.StatusCode, details: str
) -> None:
    world = World(a=fails(code, details), b=fails(code, details), c=answers())
    world.calls(20)
    world.behaviours["c"] = fails(code, details)
    made = world.call()
    assert type(made.error) is ModelNotFound
    assert made.error.code is code
    assert sorted(made.targets) == ["a", "b", "c"]
    assert made.seconds < 0.01


def test_what_one_server_does_not_have_a_silent_one_may() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours = {"a": hangs, "b": answers()}
    world.calls(2)
    world.behaviours["b"] = fails(NOT_FOUND)
    made = world.call()
    assert type(made.error) is DeadlineExceeded
    assert "NOT_FOUND" in str(made.error)
    world.behaviours["a"] = answers(3)
    made = world.call()
    assert made.answered_by is world.balancer.servers[0]


def test_calls_to_the_same_server() -> None:
    world = World(a=answers(), b=answers(), c=answers())
    world.calls(10)
    _, b, _ = world.balancer.servers
    assert {world.call(same_server=True, last_server=b).answered_by for _ in range(10)} == {b}
    world.behaviours["b"] = fails(NOT_FOUND)
    made = world.call(same_server=True, last_server=b)
    assert (made.targets, type(made.error)) == (["b"], ModelNotFound)
    world.behaviours["b"] = fails(UNAVAILABLE)
    made = world.call(same_server=True, last_server=b)
    assert made.targets[0] == "b"
    assert made.answered_by not in (None, b)
    assert "b" not in world.call(same_server=True, last_server=b).targets
    world.balancer.resolved(["a", "c", "d"], world.now)
    made = world.call(same_server=True, last_server=b)
    assert (len(made.sent), made.error) == (1, None)  # no copy for the new server


def test_a_server_that_could_not_be_reached_is_not_the_one_that_answered_last() -> None:
    world = World(a=answers(), b=answers())
    world.calls(10)
    world.behaviours = {"a": fails(UNAVAILABLE), "b": fails(UNAVAILABLE)}
    first, _ = world.balancer.servers
    assert {world.call(last_server=first).answered_by for _ in range(2)} == {first}


def test_a_call_ends_with_its_budget_and_says_what_was_tried() -> None:
    world = World(a=hangs, b=fails(UNAVAILABLE, "connection refused"))
    made = world.call(2)
    assert made.seconds == pytest.approx(2)
    assert type(made.error) is DeadlineExceeded
    assert made.error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    for fact in ("2 s", "2 servers", "UNAVAILABLE", "connection refused"):
        assert fact in str(made.error)


def test_waits_until_ready_as_long_as_the_budget_lasts() -> None:
    made = World(a=fails(UNAVAILABLE)).call(60, wait_for_ready=True)
    assert type(made.error) is DeadlineExceeded
    assert made.seconds == pytest.approx(60)
    waits = [after - before for (before, _), (after, _) in itertools.pairwise(made.sent)]
    assert max(waits) < 2.6


def test_a_server_that_left_the_name_gets_no_calls_and_is_forgotten_after_its_last() -> None:
    world = World(a=answers(), b=answers(5))
    world.balancer.begin(world.balancer.servers[1], 1, 10, world.now)
    world.balancer.resolved(["a"], world.now)
    assert world.balancer.forget_removed() == []
    assert world.calls(10) == {"a": 10}
    world = World(a=answers(), b=answers())
    world.balancer.resolved(["a"], world.now)
    assert world.balancer.forget_removed() == ["b"]


def test_the_name_is_resolved_again_after_5_s_and_after_1_s_while_calls_fail() -> None:
    balancer = Balancer(())
    assert balancer.must_resolve(0, failing=False)
    assert not balancer.must_resolve(1, failing=True)  # it is under way
    balancer.resolved(["a"], 2)
    assert not balancer.must_resolve(6.9, failing=False)
    assert balancer.must_resolve(7, failing=False)
    balancer.resolution_failed("timeout", 8)
    assert [server.target for server in balancer.servers] == ["a"]
    assert not balancer.must_resolve(8.9, failing=True)
    assert balancer.must_resolve(9, failing=True)
    assert balancer.must_resolve(40, failing=False)  # the resolver has hung for 30 s


def test_known_addresses_are_never_resolved() -> None:
    assert not Balancer(["a"]).must_resolve(0, failing=True)
