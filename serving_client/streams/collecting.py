"""Images on their way from a caller's iterable into batches. `Client` and `AsyncClient` share it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from serving_client.preprocessing import ImageInput

# An image waits at most this long for others to fill its batch.
MAX_WAIT_S = 0.1


class Batches:
    """Images that a source has given, taken out in batches. Threads may share it.

    A batch is due when it is full, when its first image has waited for MAX_WAIT_S, or when the source has
    ended. At most one batch is read ahead.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Begin without images.

        Args:
          wake: called when a batch may be due, from the thread that reads the source.
        """
        self._wake = wake
        self._changed = threading.Condition()
        self._images: deque[ImageInput] = deque()
        self._first_came_s = 0.0
        self._size = 1  # until the model's card says more
        self._has_ended = False
        self._error: BaseException | None = None
        self._is_abandoned = False

    def put_all(self, images: Iterable[ImageInput]) -> None:
        """Add the images of a collection in memory, after which the source has ended."""
        self._images.extend(images)
        self._has_ended = True

    def put(self, image: ImageInput) -> bool:
        """Add an image.

        Returns:
          Whether another one is wanted now; if not, `wait_for_room`.
        """
        with self._changed:
            self._images.append(image)
            is_first, is_full = len(self._images) == 1, len(self._images) >= self._size
            if is_first:
                self._first_came_s = time.monotonic()
        if is_first or is_full:
            self._wake()
        return not is_full and not self._is_abandoned

    def wait_for_room(self) -> bool:
        """Wait until there is room for another image; return whether anybody still wants one."""
        with self._changed:
            while len(self._images) >= self._size and not self._is_abandoned:
                self._changed.wait()
            return not self._is_abandoned

    def end(self, error: BaseException | None = None) -> None:
        """Note that the source has ended, with the error that it raised."""
        with self._changed:
            self._has_ended, self._error = True, error
        self._wake()

    def abandon(self) -> None:
        """Let the reader stop: nobody takes images any more."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def resize(self, size: int) -> None:
        """Set how many images a batch holds. The wait for them begins now."""
        with self._changed:
            self._size = size
            self._first_came_s = time.monotonic()
            self._changed.notify_all()

    def has_images(self) -> bool:
        """Say whether the source has given an image that has not been taken."""
        return bool(self._images)

    def are_one_batch(self) -> bool:
        """Say whether the source has ended with images for one batch or less."""
        with self._changed:
            return self._has_ended and self._error is None and len(self._images) <= self._size

    def take(self) -> list[ImageInput]:
        """Remove and return the next batch; an empty list if none is due."""
        with self._changed:
            if self._due_in() > 0:
                return []
            batch = [self._images.popleft() for _ in range(min(self._size, len(self._images)))]
            self._changed.notify_all()
            return batch

    def due_in(self) -> float | None:
        """Return the seconds until the next batch is due by time alone; None without images."""
        with self._changed:
            return self._due_in() if self._images else None

    def _due_in(self) -> float:
        if not self._images or self._has_ended or len(self._images) >= self._size:
            return 0.0
        return max(0.0, self._first_came_s + MAX_WAIT_S - time.monotonic())

    def is_exhausted(self) -> bool:
        """Say whether the source has ended and all of its images are taken.

        Raises:
          BaseException: what the source raised.
        """
        with self._changed:
            if not self._has_ended or self._images:
                return False
        if self._error is not None:
            raise self._error
        return True


def read(images: Iterable[ImageInput], batches: Batches) -> None:
    """Put a source's images into batches until it ends or nobody wants them; run it in a thread."""
    try:
        for image in images:
            if not batches.put(image) and not batches.wait_for_room():
                return
    except BaseException as error:
        batches.end(error)
    else:
        batches.end()


def are_in_memory(images: object) -> bool:
    """Say whether iterating never blocks, so that no thread is needed."""
    return isinstance(images, (list, tuple, np.ndarray))
