"""Stop on SIGTERM, which a pod gets before it is deleted: between two steps, with the state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from trainer.errors import StoppedError


class Stop:
    """Whether this process has been asked to end."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise StoppedError if it has. The state is saved before, or when the error passes."""
        if self.requested:
            raise_stopped()


def raise_stopped() -> NoReturn:
    """Raise StoppedError, because this process or another worker of the run has been asked to end."""
    raise StoppedError("Stopped by SIGTERM. Its state is saved. Run the same command again to resume.")


@contextmanager
def on_sigterm() -> Iterator[Stop]:
    """Record SIGTERM inside the block instead of ending at once."""
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True

    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
