"""Dynamic batching: combine the requests of several callers into one call of the model.

It works like TensorFlow Serving's batching, with one difference. In TensorFlow Serving, one bad request
fails every request in its batch. Here each caller gets the answer that its request would get alone.

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

from local_server.configuration import BatchingParameters
from local_server.statuses import StatusError, failed_precondition, invalid_argument

SignatureCall: TypeAlias = "Callable[..., list[np.ndarray]]"
"""Runs one signature: takes one array per input, returns one array per output."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    inputs: Sequence[np.ndarray]
    result: Future[list[np.ndarray]]

    @property
    def rows(self) -> int:
        return len(self.inputs[0])

    @property
    def batch_key(self) -> str:
        """Tasks can share a batch if their keys are equal: dtype and row shape of each input."""
        return repr([(array.dtype, array.shape[1:]) for array in self.inputs])


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
    """The threads that run the batches of all queues."""

    def __init__(self, parameters: BatchingParameters) -> None:
        """Start the threads. They run until the process exits."""
        self.parameters = parameters
        self._changed = threading.Condition()
        # The queues that hold tasks. A queue moves to the end once it is served, so that each gets its turn.
        self._pending: list[Queue] = []
        for number in range(parameters.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def queue(self, call: SignatureCall) -> Queue:
        """Return a function with the signature of `call` that batches the rows of its callers."""
        return Queue(self, call)

    def submit(self, queue: Queue, task: _Task) -> None:
        """Run a task together with others of its queue.

        Raises:
          StatusError: UNAVAILABLE if the queue is full.
        """
        with self._changed:
            queue.add(task)
            if queue not in self._pending:
                self._pending.append(queue)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            queue, batch = self._next()
            _run_batch(batch.tasks, queue.call, self.parameters.allowed_batch_sizes)

    def _next(self) -> tuple[Queue, _Batch]:
        """Wait for a batch that is full or has waited long enough."""
        with self._changed:
            while True:
                now = time.monotonic()
                for queue in self._pending:
                    if queue.ready_at() <= now:
                        batch = queue.take()
                        self._pending.remove(queue)
                        if queue.ready_at() < float("inf"):
                            self._pending.append(queue)
                            self._changed.notify()
                        return queue, batch
                soonest = min((queue.ready_at() for queue in self._pending), default=None)
                self._changed.wait(None if soonest is None else soonest - now)


class Queue:
    """The batches of one signature of one version, guarded by the scheduler's lock."""

    def __init__(self, scheduler: BatchScheduler, call: SignatureCall) -> None:
        self.call = call
        self._scheduler = scheduler
        self._batches = deque([_Batch()])  # only the last batch takes more tasks

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run one request's rows in a batch with others, and wait for the answer.

        Raises:
          StatusError: the request cannot be batched, or the queue is full.
          tf.errors.OpError: the model rejected this request.
        """
        _check_inputs(inputs, self._scheduler.parameters.max_batch_size)
        task = _Task(inputs, Future())
        self._scheduler.submit(self, task)
        return task.result.result()

    def add(self, task: _Task) -> None:
        """Add a task to the last batch, or start a new batch if it does not fit."""
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
        """Return when the first batch may run, in time.monotonic() seconds; infinity for an empty queue."""
        first = self._batches[0]
        if not first.tasks:
            return float("inf")
        is_full = len(self._batches) > 1 or first.rows >= self._scheduler.parameters.max_batch_size
        return 0.0 if is_full else first.ready_at

    def take(self) -> _Batch:
        """Remove and return the first batch."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch


def _check_inputs(inputs: Sequence[np.ndarray], max_batch_size: int) -> None:
    """Reject inputs without rows to batch, with TensorFlow Serving's messages."""
    if not inputs:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if not all(array.ndim for array in inputs):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    if len({len(array) for array in inputs}) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    if not len(inputs[0]):
        # TensorFlow Serving never answers such a request. The call hangs until its deadline.
        raise invalid_argument("Batching Run() input tensors must have at least one row")
    if len(inputs[0]) > max_batch_size:
        raise invalid_argument(
            f"Task size {len(inputs[0])} is larger than maximum input batch size {max_batch_size}"
        )


def _run_batch(tasks: Sequence[_Task], call: SignatureCall, allowed_sizes: Sequence[int]) -> None:
    """Answer each task. Tasks with equal keys share a call."""
    key = attrgetter("batch_key")
    for _, group in groupby(sorted(tasks, key=key), key=key):
        _run_group(list(group), call, allowed_sizes)


def _run_group(tasks: Sequence[_Task], call: SignatureCall, allowed_sizes: Sequence[int]) -> None:
    try:
        answers = _call_once(tasks, call, allowed_sizes)
    except Exception as error:  # any error belongs to a caller and must not end this thread
        if len(tasks) == 1:
            tasks[0].result.set_exception(error)
            return
        # At least one task is bad. Halving finds 1 bad task among 64 in 12 calls instead of 64.
        middle = len(tasks) // 2
        _run_group(tasks[:middle], call, allowed_sizes)
        _run_group(tasks[middle:], call, allowed_sizes)
        return
    for task, outputs in zip(tasks, answers, strict=True):
        if len(tasks) > 1 and any(_has_non_finite(output) for output in outputs):
            # In a batch, the exported `encoded_images` answers an image that it cannot decode with NaN.
            # Called with that image alone, it raises the decoder's error, which the caller can read.
            _run_group([task], call, allowed_sizes)
        else:
            task.result.set_result(outputs)


def _has_non_finite(output: np.ndarray) -> bool:
    return output.dtype.kind == "f" and not np.isfinite(output).all()


def _call_once(
    tasks: Sequence[_Task], call: SignatureCall, allowed_sizes: Sequence[int]
) -> list[list[np.ndarray]]:
    """Call the model once with the rows of all tasks; return each task's part of the outputs."""
    rows = sum(task.rows for task in tasks)
    size = next((size for size in allowed_sizes if size >= rows), rows)
    columns = zip(*(task.inputs for task in tasks), strict=True)
    # The padding repeats the first row, as in TensorFlow Serving.
    outputs = call(*(_padded(column, size - rows) for column in columns))
    for output in outputs:
        if output.ndim == 0 or len(output) != size:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
                "of the input tensors",
            )
    ends = np.cumsum([task.rows for task in tasks])[:-1]
    parts = [np.split(output[:rows], ends) for output in outputs]
    return [list(part) for part in zip(*parts, strict=True)]


def _padded(arrays: Sequence[np.ndarray], padding_rows: int) -> np.ndarray:
    """Concatenate the arrays and that many copies of the first row."""
    padding = [arrays[0][:1]] * padding_rows
    return np.concatenate([*arrays, *padding]) if len(arrays) + padding_rows > 1 else arrays[0]
