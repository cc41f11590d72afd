"""One call on its way: where to send it next, how long to wait, and when to give up; without I/O."""

from __future__ import annotations

import random
from collections import Counter

import grpc

from serving_client.errors import ServingError
from serving_client.transport import statuses
from serving_client.transport.balancing import Attempt, Balancer, Server
from serving_client.transport.statuses import Retry

# A call is sent to each server at most so often, with these waits before it is sent to one again.
MAX_TRIES = 5
_BACKOFF_S = (0.1, 0.3, 0.9, 2.0)
_JITTER = 0.25

# How long to wait before looking at the servers and the name's resolution again.
_LOOK_S, _LOOK_EMPTY_S = 0.25, 0.1


class Delivery:
    """Decides about one call. Its transport sends and waits as `next_step` says."""

    def __init__(
        self,
        balancer: Balancer,
        *,
        server: str,
        model: str,
        wait_for_ready: bool,
        size: int,
        same_server: bool,
        last_server: Server | None,
        now: float,
        timeout_s: float,
    ) -> None:
        self.deadline = now + timeout_s
        self.in_flight: set[Attempt] = set()
        self.last_server = last_server
        """The server that answered or refused last."""
        self._balancer = balancer
        self._server = server
        self._model = model
        self._wait_for_ready = wait_for_ready
        self._size = size
        self._same_server = same_server
        self._timeout_s = timeout_s
        self._tries: Counter[Server] = Counter()
        self._round = 0
        self._resume_at = now
        self._last_resolution = now
        self._may_probe = not same_server
        self._last_error: ServingError | None = None
        self._not_found: ServingError | None = None

    def next_step(self, now: float) -> Attempt | float:
        """Return an attempt to send at once, or the seconds to wait for something to happen.

        Raises:
          ServingError: the call has failed.
        """
        if now >= self.deadline:
            raise self._deadline_exceeded()
        step = self._next_attempt(now)
        if isinstance(step, Attempt):
            self.in_flight.add(step)
            self._tries[step.server] += 1
            return step
        return min(step - now, self.deadline - now, _LOOK_S)

    def is_failing(self, now: float) -> bool:
        """Tell whether the addresses may be out of date."""
        return self._last_error is not None or any(
            self._balancer.is_silent(attempt, now) for attempt in self.in_flight
        )

    def end(self, attempt: Attempt, code: grpc.StatusCode, details: str, cause: BaseException | None) -> bool:
        """Take in how an attempt ended; return whether it succeeded.

        Raises:
          ServingError: the call has failed.
        """
        self.in_flight.discard(attempt)
        if code is grpc.StatusCode.OK:
            self.last_server = attempt.server
            return True
        if attempt.is_probe:
            return False
        error = self._error(code, details)
        error.__cause__ = cause
        retry = statuses.retry(code, details)
        if retry is not Retry.ANY_SERVER:
            self.last_server = attempt.server
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise self._deadline_exceeded(details)
        if retry is Retry.NOWHERE or (retry is Retry.OTHER_SERVERS and self._same_server):
            raise error
        self._last_error = error
        if retry is Retry.OTHER_SERVERS:
            self._not_found = self._not_found or error
        return False

    def _next_attempt(self, now: float) -> Attempt | float:
        """Return an attempt, or the time until which to wait."""
        if not self._balancer.servers and not self.in_flight:
            return self._wait_for_addresses(now)
        asked = {attempt.server for attempt in self.in_flight}
        hopeful = [attempt for attempt in self.in_flight if not self._balancer.is_silent(attempt, now)]
        if hopeful:
            return self._probe(asked, now) or min(attempt.overdue_at for attempt in hopeful)
        server = self._balancer.choose(self._tries, asked, self.last_server if self._same_server else None)
        tries = self._tries.get(server, 0) if server else MAX_TRIES
        if tries and self._not_found:
            server, tries = self._unasked(self._not_found), 0
        if server is None:
            return self.deadline
        if tries >= MAX_TRIES and not self._wait_for_ready:
            if self.in_flight:
                return self.deadline
            raise self._last_error or self._deadline_exceeded()
        if tries > self._round:
            self._back_off(tries, now)
        if tries and now < self._resume_at:
            return self._resume_at
        return self._balancer.begin(server, self._size, self.deadline - now, now)

    def _unasked(self, not_found: ServingError) -> Server | None:
        """Return a server that has not been asked yet; None to wait for one that is silent but may have it.

        Raises:
          ServingError: all servers have answered that they do not have it.
        """
        unasked = [server for server in self._balancer.servers if not self._tries[server]]
        if not unasked and not self.in_flight:
            raise not_found
        return unasked[0] if unasked else None

    def _probe(self, asked: set[Server], now: float) -> Attempt | None:
        if not self._may_probe:
            return None
        self._may_probe = False
        server = self._balancer.choose_probe(asked, now)
        if server is None or not any(asking.trusted for asking in asked):
            return None
        return self._balancer.begin(server, self._size, self.deadline - now, now, is_probe=True)

    def _wait_for_addresses(self, now: float) -> float:
        failed_at, reason = self._balancer.unresolved
        if failed_at > self._last_resolution:
            self._last_resolution = failed_at
            details = f"DNS resolution failed: {reason}"
            self._last_error = self._error(grpc.StatusCode.UNAVAILABLE, details)
            if self._round + 1 >= MAX_TRIES and not self._wait_for_ready:
                raise self._last_error
            self._back_off(self._round + 1, now)
        return max(self._resume_at, now + _LOOK_EMPTY_S)

    def _back_off(self, tries: int, now: float) -> None:
        self._round = tries
        wait_s = _BACKOFF_S[min(tries, len(_BACKOFF_S)) - 1]
        self._resume_at = now + wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _deadline_exceeded(self, details: str = "") -> ServingError:
        asked = len(+self._tries)
        reason = f"no answer within {self._timeout_s:.3g} s; asked {asked} server{'' if asked == 1 else 's'}"
        if self._last_error and self._last_error.code:
            reason += f"; the last error was {self._last_error.code.name}: {self._last_error.details}"
        if details:
            reason += f": {details}"
        return self._error(grpc.StatusCode.DEADLINE_EXCEEDED, reason)

    def _error(self, code: grpc.StatusCode, details: str) -> ServingError:
        return statuses.error_for_status(code, details, self._server, self._model)
