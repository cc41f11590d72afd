"""`Client.stream`: any number of images in bounded memory, from sources quick and slow."""

import contextvars
import threading
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from serving_client import Client, ImageError, InvalidRequest, Prediction, ServerUnavailable, preprocessing
from serving_client.preprocessing import ImageInput, InputSpec
from serving_client.protocol import Call, Via
from serving_client.streams.threads import STREAM_BATCHES
from serving_client.transport.threads import Conversation
from tests.serving_client.holding_server import HoldingModel, serving

PICTURE = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def fake() -> Iterator[tuple[HoldingModel, Client]]:
    """A model that answers at once in requests of 32 images at most, and its client."""
    model = HoldingModel()
    with serving(model) as address, Client(address, model="m", timeout_s=60) as client:
        yield model, client


def pictures(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("train/*/*.jpg"))


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_yields_results_in_order_with_errors_in_their_place(
    client: Client, image_tree: Path, via: Via
) -> None:
    paths = pictures(image_tree) * 3
    images: list[ImageInput] = list(paths)
    images[70] = b"not an image"
    images[71] = image_tree / "missing.jpg"
    results = list(client.stream(iter(images), via=via))
    assert isinstance(results[70], ImageError)
    assert isinstance(results[71], ImageError)
    one_by_one = {path: client.classify([path], via=via)[0] for path in set(paths)}
    for row, (path, result) in enumerate(zip(paths, results, strict=True)):
        if row not in (70, 71):
            assert isinstance(result, Prediction)
            assert result.label == one_by_one[path].label
            assert result.probability == pytest.approx(one_by_one[path].probability, abs=1e-5)


def test_reads_images_as_results_are_taken(client: Client, image_tree: Path) -> None:
    """It reads an endless iterable a few batches ahead, not further."""
    path = pictures(image_tree)[0]
    read: list[int] = []

    def endless() -> Iterator[Path]:
        for number in count():
            read.append(number)
            yield path

    results = client.stream(endless())
    assert len(list(islice(results, 500))) == 500
    assert len(read) <= 500 + (STREAM_BATCHES + 1) * 32
    results.close()
    stopped = len(read)
    time.sleep(0.1)
    assert len(read) <= stopped + 1  # the one that was being read


def test_a_slow_source_gets_its_first_answer_before_its_batch_is_full(
    fake: tuple[HoldingModel, Client],
) -> None:
    _, client = fake
    given: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for number in range(200):
            given.append(number)
            yield PICTURE
            time.sleep(0.05)

    results = client.stream(camera())
    next(results)
    assert len(given) < 32
    results.close()


@pytest.mark.parametrize("together", [1, 3, 32, 40])
def test_a_source_that_waits_for_its_results_gets_them(
    fake: tuple[HoldingModel, Client], together: int
) -> None:
    """It gives the next images only after the results of the last ones."""
    _, client = fake
    answered: SimpleQueue[object] = SimpleQueue()

    def conversation() -> Iterator[np.ndarray]:
        for _ in range(3):
            yield from [PICTURE] * together
            for _ in range(together):
                answered.get(timeout=30)

    results = 0
    for result in client.stream(conversation()):
        results += 1
        answered.put(result)
    assert results == 3 * together


@pytest.mark.parametrize("is_generator", [False, True], ids=["list", "generator"])
def test_batches_of_a_quick_source_are_full(fake: tuple[HoldingModel, Client], is_generator: bool) -> None:
    model, client = fake
    images = [PICTURE] * 100
    assert len(list(client.stream(iter(images) if is_generator else images))) == 100
    assert sorted(model.rows) == [4, 32, 32, 32]


@pytest.mark.parametrize("before", [0, 3, 32, 100])
def test_an_error_of_the_source_follows_the_results_of_the_images_before_it(
    fake: tuple[HoldingModel, Client], before: int
) -> None:
    _, client = fake

    def breaks() -> Iterator[np.ndarray]:
        yield from [PICTURE] * before
        raise KeyError("the camera is gone")

    results = []
    with pytest.raises(KeyError, match="camera"):
        for result in client.stream(breaks()):
            results.append(result)
    assert len(results) == before


def reading_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("read-images", "classify"))]


def test_its_threads_end_with_it(fake: tuple[HoldingModel, Client]) -> None:
    _, client = fake
    assert len(list(client.stream(PICTURE for _ in range(100)))) == 100
    left_early = client.stream(PICTURE for _ in count())
    next(left_early)
    assert reading_threads()
    left_early.close()
    for _ in range(1000):
        if not reading_threads():
            break
        time.sleep(0.01)
    assert reading_threads() == []


def test_the_source_has_the_callers_context(fake: tuple[HoldingModel, Client]) -> None:
    _, client = fake
    user = contextvars.ContextVar("user", default="nobody")
    user.set("me")
    seen = []

    def source() -> Iterator[np.ndarray]:
        seen.append(user.get())
        yield PICTURE

    assert len(list(client.stream(source()))) == 1
    assert seen == ["me"]


def test_sends_several_batches_at_once(
    client: Client, image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.describe()
    send, active, most = Conversation.send, [0], [0]
    lock = threading.Lock()

    def slow(conversation: Conversation, call: Call) -> bytes:
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.05)
        answer = send(conversation, call)
        with lock:
            active[0] -= 1
        return answer

    monkeypatch.setattr(Conversation, "send", slow)
    client.classify(pictures(image_tree) * 5)
    assert 1 < most[0] <= STREAM_BATCHES


def test_a_server_error_ends_the_stream(
    client: Client, image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.describe()

    def gone(conversation: Conversation, call: Call) -> bytes:
        raise ServerUnavailable("gone")

    monkeypatch.setattr(Conversation, "send", gone)
    with pytest.raises(ServerUnavailable, match="gone"):
        list(client.stream(pictures(image_tree) * 5))


def test_refuses_wrong_arguments_before_the_first_result_is_taken(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="str"):
        client.stream("cat.jpg")


def test_threads_resize_to_the_same_levels(image_tree: Path) -> None:
    """Threads share the cached weights of the resize."""
    spec = InputSpec(24, 20, "tf")
    paths = pictures(image_tree)
    alone = [preprocessing.preprocess(path, spec) for path in paths]
    results: list[list[np.ndarray]] = [[] for _ in range(4)]

    def work(into: list[np.ndarray]) -> None:
        into += [preprocessing.preprocess(path, spec) for path in paths]

    threads = [threading.Thread(target=work, args=(into,)) for into in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in results:
        np.testing.assert_array_equal(rows, alone)
