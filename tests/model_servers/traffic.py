"""Callers that ask all the time while a test changes the servers, and what they were answered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import httpx

from serving_client import AsyncClient, Client
from serving_client.protocol import Via
from tests.model_servers.pictures import CLASSES, picture
from tests.model_servers.versions import MODEL

Ask = Callable[[bytes], tuple[str, int]]
"""Asks for one picture and returns the label and the version that answered; raises if the call failed."""

# Nothing that a test waits for takes this long, unless it never comes.
_STALLED_S = 120


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one call was answered.

    Attributes:
      shown: the class in the picture.
      label: None if the call failed.
      error: None if it did not.
      started_s: when, by `time.monotonic`.
    """

    shown: str
    label: str | None
    version: int | None
    error: Exception | None
    started_s: float
    seconds: float


class Traffic:
    """Threads that ask for pictures of all classes, one call after the other, until the `with` block ends."""

    def __init__(self, ask: Ask, callers: int = 4) -> None:
        self._ask = ask
        self._callers = callers
        self._random = random.Random(0)
        self._ended = False
        self._asking = threading.Event()
        self._asking.set()
        self.answers: list[Answer] = []

    @property
    def wrong(self) -> list[Answer]:
        """The answers with another label than the picture shows."""
        return [answer for answer in self.answers if answer.label not in (None, answer.shown)]

    @property
    def failed(self) -> list[Answer]:
        """The calls that raised."""
        return self.failed_since(0)

    def failed_since(self, moment_s: float) -> list[Answer]:
        """Return the calls that began at this moment (`time.monotonic`) or later and failed."""
        return [answer for answer in self.answers if answer.error and answer.started_s >= moment_s]

    def wait_for(self, calls: int) -> None:
        """Wait until this many calls that begin after now have ended."""
        # Each caller may be in a call that began before.
        enough = len(self.answers) + self._callers + calls
        self.wait_until(lambda: len(self.answers) >= enough)

    def rest(self) -> None:
        """Begin no calls until `go_on`."""
        self._asking.clear()

    def go_on(self) -> None:
        """Begin calls again."""
        self._asking.set()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
          AssertionError: it still does not after two minutes.
        """
        deadline = time.monotonic() + _STALLED_S
        while not condition():
            assert time.monotonic() < deadline, f"{len(self.answers)} answers, at last: {self.answers[-3:]}"
            time.sleep(0.005)

    def __enter__(self) -> Traffic:
        self._pool = ThreadPoolExecutor(self._callers)
        for _ in range(self._callers):
            self._pool.submit(self._call_until_ended)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        self._asking.set()
        self._pool.shutdown()

    def _call_until_ended(self) -> None:
        while self._asking.wait() and not self._ended:
            self.answers.append(self._call(self._random.choice(CLASSES)))

    def _call(self, shown: str) -> Answer:
        label = version = failure = None
        started_s = time.monotonic()
        try:
            label, version = self._ask(picture(shown))
        except Exception as error:  # of any kind: the test looks at it
            failure = error
        return Answer(shown, label, version, failure, started_s, time.monotonic() - started_s)


def wait_for_each(traffics: Sequence[Traffic], calls: int) -> None:
    """Wait until this many calls of each that begin after now have ended; the quick ones rest then."""
    with ThreadPoolExecutor(len(traffics)) as pool:
        list(pool.map(lambda traffic: (traffic.wait_for(calls), traffic.rest()), traffics))
    for traffic in traffics:
        traffic.go_on()


@contextlib.contextmanager
def asking_threads(server: str, via: Via, *, model: str = MODEL, **options: Any) -> Iterator[Ask]:
    """Ask with one Client that all callers share."""
    with Client(server, model=model, **options) as client:

        def ask(image: bytes) -> tuple[str, int]:
            (prediction,) = client.classify([image], via=via)
            return prediction.label, prediction.version

        yield ask


@contextlib.contextmanager
def asking_asyncio(server: str, via: Via, *, model: str = MODEL, **options: Any) -> Iterator[Ask]:
    """Ask with one AsyncClient, whose event loop runs in a thread; each caller is a task of it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def connect() -> AsyncClient:
        return AsyncClient(server, model=model, **options)

    client = asyncio.run_coroutine_threadsafe(connect(), loop).result()

    def ask(image: bytes) -> tuple[str, int]:
        answer = asyncio.run_coroutine_threadsafe(client.classify([image], via=via), loop)
        (prediction,) = answer.result()
        return prediction.label, prediction.version

    try:
        yield ask
    finally:
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def asking_gateway(url: str, via: Via) -> Iterator[Ask]:
    """Ask a gateway over HTTP."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:

        def ask(image: bytes) -> tuple[str, int]:
            answer = http.post("/v1/classify", params={"via": via}, content=image)
            assert answer.status_code == 200, answer.text
            (result,) = answer.json()["results"]
            return result["scores"][0]["label"], result["version"]

        yield ask


ASKING = {"threads": asking_threads, "asyncio": asking_asyncio}
