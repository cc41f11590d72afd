"""What a client that is closed tells those who still wait, and those who come later."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from serving_client.errors import ServingError


class Closing:
    """Whether a client is closed. Threads may share it."""

    def __init__(self, server: str, model: str) -> None:
        self._message = f"{server}, model {model!r}: the client is closed. Open a new one."
        self._is_closed = False
        self._lock = threading.Lock()
        self._waiting: dict[object, Callable[[], object]] = {}

    def check(self) -> None:
        """Raise the error if the client is closed.

        Raises:
          ServingError: the client is closed.
        """
        if self._is_closed:
            raise self.error()

    def error(self) -> ServingError:
        """Return the error for calls of a closed client."""
        return ServingError(self._message)

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` if the client is closed inside the `with` block.

        Raises:
          ServingError: the client is closed already.
        """
        key = object()
        with self._lock:
            self.check()
            self._waiting[key] = wake
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(key, None)

    def close(self) -> None:
        """Wake all who wait. Closing twice is fine."""
        with self._lock:
            self._is_closed = True
            waiting = list(self._waiting.values())
        for wake in waiting:
            wake()
