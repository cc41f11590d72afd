"""What a client that is closed tells those who still wait, and those who come later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from serving_client.errors import ServingError

_T = TypeVar("_T")


class Closing:
    """Whether a client is closed. Threads may share it."""

    def __init__(self, server: str, model: str) -> None:
        self._message = f"{server}, model {model!r}: the client is closed. Open a new one."
        self._is_closed = False
        # The garbage collector may end a stream, and so leave `waking`, in any thread at any time.
        self._lock = threading.RLock()
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

    async def until_closed(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await the work in a task of its own, which `close` cancels.

        Raises:
          ServingError: the client is closed.
        """
        task = asyncio.create_task(work)
        try:
            with self.waking(task.cancel):
                await asyncio.wait([task])
        except BaseException:  # the caller is cancelled, or the client is closed already
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        if task.cancelled():
            raise self.error()
        return task.result()

    def close(self) -> None:
        """Wake all who wait. Closing twice is fine."""
        with self._lock:
            self._is_closed = True
            waiting = list(self._waiting.values())
        for wake in waiting:
            wake()
