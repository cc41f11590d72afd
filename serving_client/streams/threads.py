"""A stream of images becomes a stream of results, in threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future

from serving_client.preprocessing import ImageInput
from serving_client.protocol import Result
from serving_client.streams import collecting
from serving_client.streams.closing import Closing
from serving_client.streams.collecting import Batches
from serving_client.streams.workers import Workers

# Batches that one stream decodes, sends and waits for in parallel, in `Client` and in `AsyncClient`.
STREAM_BATCHES = min(8, (os.cpu_count() or 1) + 2)


def stream_results(
    images: Iterable[ImageInput],
    batch_size: Callable[[], int],
    classify: Callable[[list[ImageInput]], list[Result]],
    closing: Closing,
) -> Generator[Result, None, None]:
    """Classify images in batches; yield their results in order, each as soon as it is ready.

    It reads the images in a thread of its own, unless they are in memory, and classifies batches in others.
    Closing the generator abandons all of them without waiting.

    Args:
      batch_size: asks how many images a batch holds; called once there is an image.
      classify: returns the results of one batch.
    Raises:
      ServingError: a batch failed, or the client is closed.
      BaseException: what the iterable raises, after the results of the images before.
    """
    awake = threading.Event()
    batches = Batches(awake.set)
    reader = Workers(1, "read-images")
    workers = Workers(STREAM_BATCHES, "classify")
    pending: deque[Future[list[Result]]] = deque()

    def start_due_batches() -> None:
        while len(pending) < STREAM_BATCHES and (batch := batches.take()):
            pending.append(workers.submit(classify, batch))
            pending[-1].add_done_callback(lambda _: awake.set())

    with closing.waking(awake.set):
        try:
            if collecting.are_in_memory(images):
                batches.put_all(images)
            else:
                reader.submit(collecting.read, images, batches)
            if not _wait_for_image(batches, awake, closing):
                return  # without images there is nothing to ask the server
            batches.resize(batch_size())
            if batches.are_one_batch():  # it needs no threads
                yield from classify(batches.take())
                return
            while True:
                awake.clear()
                closing.check()
                start_due_batches()
                if pending:
                    if pending[0].done():
                        yield from pending.popleft().result()
                        continue
                elif batches.is_exhausted():
                    return
                awake.wait(batches.due_in() if len(pending) < STREAM_BATCHES else None)
        finally:
            batches.abandon()
            reader.stop()
            workers.stop()


def _wait_for_image(batches: Batches, awake: threading.Event, closing: Closing) -> bool:
    """Wait for the first image; return whether there is one."""
    while not batches.has_images():
        if batches.is_exhausted():
            return False
        awake.wait()
        awake.clear()
        closing.check()
    return True
