"""Threads that never delay the end of the program.

Python joins the threads of a `ThreadPoolExecutor` before it exits, so that Ctrl-C would wait for their calls.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class Workers:
    """Daemon threads that run functions in the order in which they are submitted."""

    def __init__(self, most: int, name: str) -> None:
        """Start no thread yet.

        Args:
          most: threads at most.
        """
        self._most = most
        self._name = name
        self._threads = 0
        self._is_stopped = False
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, function: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Run the function in a thread, with the caller's context variables; after `stop`, cancel it."""
        future: Future[_T] = Future()
        context = contextvars.copy_context()
        with self._lock:
            if self._is_stopped:
                future.cancel()
                return future
            self._tasks.put((future, lambda: context.run(function, *arguments)))
            if self._threads < self._most:
                self._threads += 1
                threading.Thread(
                    target=_run, args=(self._tasks,), name=f"{self._name}-{self._threads}", daemon=True
                ).start()
        return future

    def stop(self) -> None:
        """Let the threads end once they have run what was submitted. Do not wait for them."""
        with self._lock:
            self._is_stopped = True
            for _ in range(self._threads):
                self._tasks.put(None)
            self._threads = 0

    def __del__(self) -> None:
        """Stop, if nobody did."""
        self.stop()


def _run(tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (task := tasks.get()) is not None:
        future, function = task
        if future.set_running_or_notify_cancel():
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        # While it waits for the next task, a thread must not keep the images of the last one.
        del task, future, function
