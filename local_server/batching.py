"""Dynamic batching: requests of different callers, put together for one call of the model.

As TensorFlow Serving's, but for one thing: there a bad request fails all that share its batch, and here
a request is answered as if it had been alone.

Source: tensorflow/core/kernels/batching_util/shared_batch_scheduler.h.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias

import grpc
import numpy as np
import tensorflow as tf

from local_server.configuration import BatchingParameters
from local_server.statuses import StatusError, from_tensorflow, invalid_argument

Call: TypeAlias = "Callable[..., list[np.ndarray]]"
"""From one array per input to one per output."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    inputs: Sequence[np.ndarray]
    result: Future[list[np.ndarray]]

    @property
    def rows(self) -> int:
        return len(self.inputs[0])

    @property
    def kind(self) -> str:
        """What tasks must have in common to be put together."""
        return repr([(one.dtype, one.shape[1:]) for one in self.inputs])


class _Batch:
    def __init__(self) -> None:
        self.tasks: list[_Task] = []
        self.rows = 0
        self.ready_at = 0.0

    def add(self, task: _Task, timeout_s: float) -> None:
        if not self.tasks:
            self.ready_at = time.monotonic() + timeout_s
        self.tasks.append(task)
        self.rows += task.rows


class BatchScheduler:
    """The threads that all queues share."""

    def __init__(self, parameters: BatchingParameters) -> None:
        """Start the threads; they end with the process."""
        self.parameters = parameters
        self._changed = threading.Condition()
        self._waiting: list[Queue] = []  # those with something in them, fairly: served ones go to the end
        for number in range(parameters.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def queue(self, call: Call) -> Queue:
        """Return a function like `call` that puts its callers' rows together."""
        return Queue(self, call)

    def submit(self, queue: Queue, task: _Task) -> None:
        """Have a task run with others of its queue.

        Raises:
          StatusError: UNAVAILABLE: the queue is full.
        """
        with self._changed:
            queue.add(task)
            if queue not in self._waiting:
                self._waiting.append(queue)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            queue, batch = self._next()
            _run(batch.tasks, queue.call, self.parameters.allowed_batch_sizes)

    def _next(self) -> tuple[Queue, _Batch]:
        """Wait for a batch that is full or has waited long enough."""
        with self._changed:
            while True:
                now = time.monotonic()
                for queue in self._waiting:
                    if queue.ready_at() <= now:
                        batch = queue.take()
                        self._waiting.remove(queue)
                        if queue.ready_at() < float("inf"):
                            self._waiting.append(queue)
                            self._changed.notify()
                        return queue, batch
                soonest = min((queue.ready_at() for queue in self._waiting), default=None)
                self._changed.wait(None if soonest is None else soonest - now)


class Queue:
    """The batches of one signature of one version; the scheduler's lock guards it."""

    def __init__(self, scheduler: BatchScheduler, call: Call) -> None:
        self.call = call
        self._scheduler = scheduler
        self._batches = deque([_Batch()])  # the last one is open

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run one request's rows with those of others, and wait for the answer.

        Raises:
          StatusError: the request cannot be batched, or the queue is full.
          tf.errors.OpError: the model refuses this request.
        """
        _check(inputs, self._scheduler.parameters.max_batch_size)
        task = _Task(inputs, Future())
        self._scheduler.submit(self, task)
        return task.result.result()

    def add(self, task: _Task) -> None:
        """Add to the open batch, or begin another."""
        parameters = self._scheduler.parameters
        if self._batches[-1].rows + task.rows > parameters.max_batch_size:
            if len(self._batches) >= parameters.max_enqueued_batches:
                raise StatusError(
                    grpc.StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{len(self._batches)} batches enqueued and max_enqueued_batches is "
                    f"{parameters.max_enqueued_batches}",
                )
            self._batches.append(_Batch())
        self._batches[-1].add(task, parameters.batch_timeout_s)

    def ready_at(self) -> float:
        """Return when the first batch may run, by time.monotonic(); infinity: there is none."""
        first = self._batches[0]
        if not first.tasks:
            return float("inf")
        is_full = len(self._batches) > 1 or first.rows >= self._scheduler.parameters.max_batch_size
        return 0.0 if is_full else first.ready_at

    def take(self) -> _Batch:
        """Remove the first batch."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch


def _check(inputs: Sequence[np.ndarray], max_batch_size: int) -> None:
    """Refuse what has no rows that could be put with others, in TensorFlow Serving's words."""
    if not inputs:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if not all(one.ndim for one in inputs):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    if len({len(one) for one in inputs}) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    if not len(inputs[0]):
        # TensorFlow Serving has no answer at all to this one: the call hangs until its deadline.
        raise invalid_argument("Batching Run() input tensors must have at least one row")
    if len(inputs[0]) > max_batch_size:
        raise invalid_argument(
            f"Task size {len(inputs[0])} is larger than maximum input batch size {max_batch_size}"
        )


def _run(tasks: Sequence[_Task], call: Call, allowed_sizes: Sequence[int]) -> None:
    """Answer each task, those of a kind together."""
    kind = attrgetter("kind")
    for _, alike in groupby(sorted(tasks, key=kind), key=kind):
        _run_alike(list(alike), call, allowed_sizes)


def _run_alike(tasks: Sequence[_Task], call: Call, allowed_sizes: Sequence[int]) -> None:
    try:
        answers = _call_together(tasks, call, allowed_sizes)
    except Exception as error:  # whatever it is, it is those callers' and not this thread's
        if len(tasks) == 1:
            tasks[0].result.set_exception(error)
            return
        # One of them is bad. Halves, and not each alone: 1 of 64 takes 12 calls and not 64.
        middle = len(tasks) // 2
        _run_alike(tasks[:middle], call, allowed_sizes)
        _run_alike(tasks[middle:], call, allowed_sizes)
        return
    for task, outputs in zip(tasks, answers, strict=True):
        if len(tasks) > 1 and any(_not_finite(one) for one in outputs):
            # So `encoded_images` marks a picture that cannot be decoded among others that can be; alone,
            # it says why (trainer/signatures.py).
            _run_alike([task], call, allowed_sizes)
        else:
            task.result.set_result(outputs)


def _not_finite(output: np.ndarray) -> bool:
    return output.dtype.kind == "f" and not np.isfinite(output).all()


def _call_together(
    tasks: Sequence[_Task], call: Call, allowed_sizes: Sequence[int]
) -> list[list[np.ndarray]]:
    """Call once with the rows of all tasks; return each one's part of the outputs."""
    rows = sum(task.rows for task in tasks)
    size = next((size for size in allowed_sizes if size >= rows), rows)
    columns = zip(*(task.inputs for task in tasks), strict=True)
    # What fills up a batch repeats its first row, as TensorFlow Serving does.
    outputs = call(*(_joined(column, size - rows) for column in columns))
    for output in outputs:
        if output.ndim == 0 or len(output) != size:
            raise StatusError(
                from_tensorflow(tf.errors.FAILED_PRECONDITION),
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
                "of the input tensors",
            )
    ends = np.cumsum([task.rows for task in tasks])[:-1]
    parts = [np.split(output[:rows], ends) for output in outputs]
    return [list(part) for part in zip(*parts, strict=True)]


def _joined(arrays: Sequence[np.ndarray], padding: int) -> np.ndarray:
    filling = [arrays[0][:1]] * padding
    return np.concatenate([*arrays, *filling]) if len(arrays) + padding > 1 else arrays[0]
