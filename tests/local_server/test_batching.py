import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters
from local_server.statuses import StatusError


class Recorder:
    """A model that answers each row's square, and remembers the sizes that it was called with."""

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
    """Send all requests at once; return the answers, or what was raised."""

    def one(rows: np.ndarray) -> object:
        try:
            return call(rows)[0].tolist()
        except Exception as error:
            return error

    with ThreadPoolExecutor(max(1, len(requests))) as pool:
        return list(pool.map(one, requests))


def queue_of(model: Recorder, **parameters: Any) -> Callable[..., list[np.ndarray]]:
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
    answers = ask(queue_of(model, batch_timeout_s=0.5), [rows(1, 2), rows(3), rows(4, 5, 6), rows(7, 8)])
    assert answers == [[1, 4], [9], [16, 25, 36], [49, 64]]
    assert model.sizes == [8]  # full, and so not at the end of the timeout


def test_a_batch_that_is_not_full_goes_when_its_time_is_up() -> None:
    model = Recorder()
    started = time.monotonic()
    assert ask(queue_of(model, batch_timeout_s=0.2), [rows(1), rows(2)]) == [[1], [4]]
    assert 0.2 <= time.monotonic() - started < 2
    assert model.sizes == [2]


def test_without_a_timeout_nobody_waits_but_for_the_batch_before() -> None:
    model = Recorder()
    model.gate.clear()
    call = queue_of(model, batch_timeout_s=0.0)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(call, rows(1))
        while not model.sizes:
            time.sleep(0.001)
        others = [pool.submit(call, rows(value)) for value in (2, 3, 4, 5)]
        time.sleep(0.1)
        model.gate.set()
        assert [one.result()[0].tolist() for one in (first, *others)] == [[1], [4], [9], [16], [25]]
    assert model.sizes == [1, 4]


def test_a_batch_is_filled_up_to_the_next_allowed_size_with_its_first_row() -> None:
    model = Recorder()
    call = queue_of(model, allowed_batch_sizes=(1, 4, 8))
    assert ask(call, [rows(2, 3, 4, 5, 6)]) == [[4, 9, 16, 25, 36]]
    assert ask(call, [rows(2, 3)]) == [[4, 9]]
    assert ask(call, [rows(2)]) == [[4]]
    assert model.sizes == [8, 4, 1]


def test_a_bad_request_fails_its_own_caller_only() -> None:
    model = Recorder()
    requests = [rows(value) for value in (1, 2, 666, 4, 5, 6, 7, 8)]
    answers = ask(queue_of(model, batch_timeout_s=0.5), requests)
    assert isinstance(answers.pop(2), ValueError)
    assert answers == [[1], [4], [16], [25], [36], [49], [64]]
    assert model.sizes[0] == 8  # they were together
    assert len(model.sizes) == 1 + 2 * 3  # halves of 8, 4 and 2


def test_rows_of_another_shape_or_dtype_fail_nobody_else() -> None:
    model = Recorder()
    requests = [rows(1), rows(2).astype(np.int32), np.full((1, 2), 3, np.float32), rows(4)]
    assert ask(queue_of(model), requests) == [[1], [4], [[9, 9]], [16]]
    assert sorted(model.sizes) == [1, 1, 2]


def test_an_answer_that_is_no_number_is_asked_for_again_alone() -> None:
    calls: list[int] = []

    def model(rows: np.ndarray) -> list[np.ndarray]:
        calls.append(len(rows))
        if len(rows) == 1 and rows[0] < 0:
            raise ValueError("no image")
        return [np.sqrt(np.where(rows < 0, np.nan, rows))]

    call = BatchScheduler(BatchingParameters(max_batch_size=2, batch_timeout_s=5)).queue(model)
    good, bad = ask(call, [rows(4), rows(-1)])
    assert good == [2]
    assert str(bad) == "no image"
    assert calls == [2, 1]


def test_a_full_queue_answers_unavailable_instead_of_growing() -> None:
    model = Recorder()
    model.gate.clear()
    call = queue_of(model, max_batch_size=2, max_enqueued_batches=3, batch_timeout_s=0.0)
    with ThreadPoolExecutor(9) as pool:
        running = pool.submit(call, rows(1, 1))
        while not model.sizes:
            time.sleep(0.001)
        waiting = [pool.submit(call, rows(value, value)) for value in (2, 3, 4)]
        while sum(len(batch.tasks) for batch in call._batches) < 3:  # type: ignore[attr-defined,misc]  # a queue, whatever it serves
            time.sleep(0.001)
        with pytest.raises(StatusError, match="currently 3 batches enqueued") as caught:
            call(rows(5))
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        assert caught.value.message.startswith("The batch scheduling queue to which this task was submitted")
        model.gate.set()
        assert [one.result()[0].tolist() for one in (running, *waiting)] == [[1, 1], [4, 4], [9, 9], [16, 16]]


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
def test_what_has_no_rows_to_share_is_refused(inputs: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(StatusError) as caught:
        queue_of(Recorder())(*inputs)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == message


def test_many_callers_get_their_own_answers() -> None:
    scheduler = BatchScheduler(BatchingParameters(max_batch_size=16, num_batch_threads=3))
    calls = [scheduler.queue(Recorder()) for _ in range(3)]
    with ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda value: calls[value % 3](rows(value % 600, 1))[0].tolist(), range(3000))
        assert list(answers) == [[(value % 600) ** 2, 1] for value in range(3000)]
