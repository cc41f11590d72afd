import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import grpc
import numpy as np
import pytest

from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters
from local_server.statuses import StatusError


class Recorder:
    """A model that returns the square of each row and records the size of each batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, rows: np.ndarray) -> list[np.ndarray]:
        self.sizes.append(len(rows))
        self.gate.wait(30)
        if (rows == 666).any():
            raise ValueError("bad row")
        return [rows.astype(np.float64) ** 2]


def ask(call: Callable[..., list[np.ndarray]], requests: Sequence[np.ndarray]) -> list[object]:
    """Send all requests at once; return the answer or the exception of each."""

    def answer(rows: np.ndarray) -> object:
        try:
            return call(rows)[0].tolist()
        except Exception as error:
            return error

    with ThreadPoolExecutor(max(1, len(requests))) as pool:
        return list(pool.map(answer, requests))


def batched(
    model: Callable[[np.ndarray], list[np.ndarray]], **parameters: Any
) -> Callable[..., list[np.ndarray]]:
    given: dict[str, Any] = {
        "max_batch_size": 8,
        "num_batch_threads": 1,
        "batch_timeout_s": 0.05,
        **parameters,
    }
    return BatchScheduler(BatchingParameters(**given)).queue(model)


def rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_requests_of_different_callers_share_a_call_and_each_gets_its_own_rows() -> None:
    model = Recorder()
    answers = ask(batched(model, batch_timeout_s=0.5), [rows(1, 2), rows(3), rows(4, 5, 6), rows(7, 8)])
    assert answers == [[1, 4], [9], [16, 25, 36], [49, 64]]
    assert model.sizes == [8]  # a full batch does not wait for the timeout


def test_a_batch_that_is_not_full_runs_after_the_timeout() -> None:
    model = Recorder()
    started = time.monotonic()
    assert ask(batched(model, batch_timeout_s=0.2), [rows(1), rows(2)]) == [[1], [4]]
    assert 0.2 <= time.monotonic() - started < 2
    assert model.sizes == [2]


def test_without_a_timeout_requests_wait_only_for_the_running_batch() -> None:
    model = Recorder()
    model.gate.clear()
    call = batched(model, batch_timeout_s=0.0)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(call, rows(1))
        while not model.sizes:
            time.sleep(0.001)
        others = [pool.submit(call, rows(value)) for value in (2, 3, 4, 5)]
        time.sleep(0.1)
        model.gate.set()
        assert [answer.result()[0].tolist() for answer in (first, *others)] == [[1], [4], [9], [16], [25]]
    assert model.sizes == [1, 4]


def test_a_batch_is_padded_to_the_next_allowed_size() -> None:
    model = Recorder()
    call = batched(model, allowed_batch_sizes=(1, 4, 8))
    assert ask(call, [rows(2, 3, 4, 5, 6)]) == [[4, 9, 16, 25, 36]]
    assert ask(call, [rows(2, 3)]) == [[4, 9]]
    assert ask(call, [rows(2)]) == [[4]]
    assert model.sizes == [8, 4, 1]


def test_a_bad_request_fails_its_own_caller_only() -> None:
    model = Recorder()
    requests = [rows(value) for value in (1, 2, 666, 4, 5, 6, 7, 8)]
    answers = ask(batched(model, batch_timeout_s=0.5), requests)
    assert isinstance(answers.pop(2), ValueError)
    assert answers == [[1], [4], [16], [25], [36], [49], [64]]
    assert model.sizes[0] == 8  # all shared a batch
    assert len(model.sizes) == 1 + 2 * 3  # then the halves of 8, 4 and 2


def test_rows_of_another_shape_or_dtype_run_in_a_batch_of_their_own() -> None:
    seen: set[tuple[str, tuple[int, ...]]] = set()

    def model(rows: np.ndarray) -> list[np.ndarray]:
        seen.add((rows.dtype.name, rows.shape))
        return [rows**2]

    requests = [rows(1), rows(2).astype(np.int32), np.full((1, 2), 3, np.float32), rows(4)]
    assert ask(batched(model, batch_timeout_s=0.5), requests) == [[1], [4], [[9, 9]], [16]]
    assert seen == {("float32", (2,)), ("int32", (1,)), ("float32", (1, 2))}


def test_a_request_answered_with_nan_runs_again_alone() -> None:
    calls: list[int] = []

    def model(rows: np.ndarray) -> list[np.ndarray]:
        calls.append(len(rows))
        if len(rows) == 1 and rows[0] < 0:
            raise ValueError("not an image")
        return [np.sqrt(np.where(rows < 0, np.nan, rows))]

    call = BatchScheduler(BatchingParameters(max_batch_size=2, batch_timeout_s=5)).queue(model)
    good, bad = ask(call, [rows(4), rows(-1)])
    assert good == [2]
    assert str(bad) == "not an image"
    assert calls == [2, 1]


def test_a_full_queue_answers_unavailable_instead_of_growing() -> None:
    model = Recorder()
    model.gate.clear()
    call = batched(model, max_batch_size=2, max_enqueued_batches=3, batch_timeout_s=0.0)
    with ThreadPoolExecutor(9) as pool:
        running = pool.submit(call, rows(1, 1))
        while not model.sizes:
            time.sleep(0.001)
        waiting = {pool.submit(call, rows(value, value)) for value in (2, 3, 4, 5)}
        rejected, waiting = wait(waiting, timeout=30, return_when=FIRST_COMPLETED)
        (error,) = (future.exception() for future in rejected)
        assert isinstance(error, StatusError)
        assert error.code == grpc.StatusCode.UNAVAILABLE
        assert error.message == (
            "The batch scheduling queue to which this task was submitted is full; "
            "currently 3 batches enqueued and max_enqueued_batches is 3"
        )
        model.gate.set()
        assert running.result()[0].tolist() == [1, 1]
        answers = [future.result()[0].tolist() for future in waiting]
        assert len(answers) == 3
        assert all(answer in ([4, 4], [9, 9], [16, 16], [25, 25]) for answer in answers)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "Batching Run() must have at least one input tensor"),
        ((np.float32(1).reshape(()),), "Batching Run() input tensors must have at least one dimension"),
        ((rows(1), rows(1, 2)), "Batching Run() input tensors must have equal 0th-dimension size"),
        ((rows(),), "Batching Run() input tensors must have at least one row"),
        ((rows(*range(9)),), "Task size 9 is larger than maximum input batch size 8"),
    ],
)
def test_inputs_without_rows_to_batch_are_rejected(inputs: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(StatusError) as caught:
        batched(Recorder())(*inputs)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == message


def test_an_output_without_the_batch_dimension_fails() -> None:
    call = BatchScheduler(BatchingParameters(max_batch_size=2)).queue(lambda rows: [rows.sum()])
    with pytest.raises(StatusError) as caught:
        call(rows(1, 2))
    assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("requests", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_many_callers_get_their_own_answers(requests: int) -> None:
    scheduler = BatchScheduler(BatchingParameters(max_batch_size=16, num_batch_threads=3))
    calls = [scheduler.queue(Recorder()) for _ in range(3)]
    with ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda value: calls[value % 3](rows(value % 600, 1))[0].tolist(), range(requests))
        assert list(answers) == [[(value % 600) ** 2, 1] for value in range(requests)]
