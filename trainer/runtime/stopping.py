"""SIGTERM: what a Job's pod gets before it is taken away is noted, and acted on between two steps."""

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
        """Raise StoppedError if so: what is complete has been saved, or is saved on the way out."""
        if self.requested:
            raise_stopped()


def raise_stopped() -> NoReturn:
    """Raise StoppedError: this process, or another worker of the run, has been asked to end."""
    raise StoppedError("Stopped by SIGTERM. What was done is saved: the same command goes on from there.")


@contextmanager
def on_sigterm() -> Iterator[Stop]:
    """Note SIGTERM inside the block instead of ending at once."""
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
