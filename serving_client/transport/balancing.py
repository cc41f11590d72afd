"""Which of a name's servers gets the next call, without I/O.

A server is trusted once it has answered. Trusted servers take turns. One that fails, or that stays silent
while calls wait for it, is no longer trusted. It then gets one call at a time, as a copy of a call that a
trusted server gets too. So nobody waits for it until it has answered again.
"""

from __future__ import annotations

import dataclasses
import heapq
import threading
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping

import grpc

from serving_client.transport import statuses

# The time between two resolutions of the name: usually, while calls fail, and while it has no address.
_REFRESH_S, _REFRESH_FAILING_S, _REFRESH_EMPTY_S = 5.0, 1.0, 0.1
# A resolution that takes longer does not keep the next one from starting.
_RESOLUTION_S = 30.0
# A server that has failed is left alone for so long.
_REST_S = 1.0

_MIN_PATIENCE_S = 0.25
_RECENT_ANSWERS = 64


@dataclasses.dataclass(eq=False)
class Server:
    """One address.

    Attributes:
      target: as gRPC writes it.
      trusted: it has answered since it last failed or fell silent.
      silent: it kept a call waiting too long and has answered nothing since.
      failed_at: when it last failed or fell silent.
      heard_at: when it last answered.
      in_flight: calls sent to it that have not ended.
      listed: the name still stands for it.
    """

    target: str
    trusted: bool = False
    silent: bool = False
    failed_at: float = float("-inf")
    heard_at: float = float("-inf")
    in_flight: int = 0
    listed: bool = True


@dataclasses.dataclass(eq=False)
class Attempt:
    """One sending of a call to one server.

    Attributes:
      size_class: calls of this size are expected to take a similar time.
      patience_s: how long the server may answer nothing at all.
      is_probe: a copy that only tests whether the server answers again.
    """

    server: Server
    sent_at: float
    size_class: int
    patience_s: float
    is_probe: bool

    @property
    def overdue_at(self) -> float:
        """When the server counts as silent, unless it answers something before."""
        return max(self.sent_at, self.server.heard_at) + self.patience_s


class Balancer:
    """The servers behind one name. Threads may share it."""

    def __init__(self, targets: Iterable[str]) -> None:
        """Begin with known targets; without any, the name must be resolved."""
        self.servers: list[Server] = [Server(target) for target in targets]
        self.unresolved: tuple[float, str] = (float("-inf"), "")
        """When and why the name's last resolution failed."""
        self._is_fixed = bool(self.servers)
        self._removed: list[Server] = []
        self._resolved_at = self._resolving_since = float("-inf")
        self._turn = 0
        self._recent: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT_ANSWERS))
        self._slowest: dict[int, float] = {}
        self._lock = threading.Lock()

    def must_resolve(self, now: float, failing: bool) -> bool:
        """Tell whether the caller must resolve the name now, and expect it to do so."""
        if self._is_fixed:
            return False
        wait_s = _REFRESH_FAILING_S if failing else _REFRESH_S
        if not self.servers:
            wait_s = _REFRESH_EMPTY_S
        with self._lock:
            last = max(self._resolved_at, self.unresolved[0])
            if now - last < wait_s or now - self._resolving_since < _RESOLUTION_S:
                return False
            self._resolving_since = now
            return True

    def resolved(self, targets: Collection[str], now: float) -> None:
        """Take over the name's addresses. Known ones keep their state."""
        with self._lock:
            known = {server.target: server for server in (*self._removed, *self.servers)}
            self.servers = [known.get(target) or Server(target) for target in targets]
            for server in known.values():
                server.listed = server.target in targets
            self._removed = [server for server in known.values() if not server.listed]
            self._resolved_at, self._resolving_since = now, float("-inf")

    def resolution_failed(self, reason: str, now: float) -> None:
        """Keep the known addresses."""
        with self._lock:
            self.unresolved = (now, reason)
            self._resolving_since = float("-inf")

    def forget_removed(self) -> list[str]:
        """Return the targets that are no longer listed and whose calls have all ended; forget them."""
        with self._lock:
            ended = [server.target for server in self._removed if not server.in_flight]
            self._removed = [server for server in self._removed if server.in_flight]
            return ended

    def choose(
        self, tries: Mapping[Server, int], asked: Collection[Server], preferred: Server | None = None
    ) -> Server | None:
        """Choose the server for a call's next attempt; None if no other one is likely to answer sooner.

        Args:
          tries: how often the call was sent to each server.
          asked: where the call is waiting for an answer.
          preferred: taken if it is listed and trusted.
        """
        with self._lock:
            free = [server for server in self.servers if server not in asked and not server.silent]
            if not free and not asked and self.servers:
                free = [max(self.servers, key=lambda server: server.heard_at)]
            if preferred in free and preferred.trusted:
                return preferred
            ranks = [(tries.get(server, 0), not server.trusted) for server in free]
            best = [server for server, rank in zip(free, ranks, strict=True) if rank == min(ranks)]
            if not tries:  # a retry is not a turn: with two servers, a failing one would begin every call
                self._turn += 1
            return best[self._turn % len(best)] if best else None

    def choose_probe(self, asked: Collection[Server], now: float) -> Server | None:
        """Choose a server that should get a copy of a call, because it may answer again."""
        if all(server.trusted for server in self.servers):
            return None
        with self._lock:
            for server in self.servers:
                rested = now - server.failed_at >= _REST_S
                if not server.trusted and not server.in_flight and rested and server not in asked:
                    return server
        return None

    def begin(self, server: Server, size: int, left_s: float, now: float, is_probe: bool = False) -> Attempt:
        """Note that a call of `size` bytes with `left_s` until its deadline is sent."""
        size_class = size.bit_length() // 4  # 16 times as many bytes
        with self._lock:
            server.in_flight += 1
            slowest = self._slowest.get(size_class)
        if slowest is None:
            patience_s = left_s / 4
        else:
            # Steady slow answers never count as silence.
            patience_s = min(max(2 * slowest, _MIN_PATIENCE_S), max(left_s / 2, 1.25 * slowest))
        return Attempt(server, now, size_class, patience_s, is_probe)

    def end(self, attempt: Attempt, code: grpc.StatusCode, details: str, now: float) -> None:
        """Note how an attempt ended."""
        server = attempt.server
        with self._lock:
            server.in_flight -= 1
            if statuses.is_answer(code, details):
                server.trusted, server.silent, server.heard_at = True, False, now
                if code is grpc.StatusCode.OK and not attempt.is_probe:
                    self._learn(attempt.size_class, now - attempt.sent_at)
            elif code is not grpc.StatusCode.CANCELLED:
                server.failed_at = now
                if code is grpc.StatusCode.UNAVAILABLE:
                    server.trusted = False

    def is_silent(self, attempt: Attempt, now: float) -> bool:
        """Tell whether the attempt's server has been silent for too long."""
        server = attempt.server
        if not server.silent and now >= attempt.overdue_at:
            with self._lock:
                server.silent, server.trusted, server.failed_at = True, False, now
        return server.silent

    def _learn(self, size_class: int, seconds: float) -> None:
        recent = self._recent[size_class]
        recent.append(seconds)
        # The second slowest: a single answer of a server that hung says nothing about the next ones.
        self._slowest[size_class] = heapq.nlargest(2, recent)[-1]
