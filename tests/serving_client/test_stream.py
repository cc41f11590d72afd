"""`Client.stream`: any number of images in bounded memory."""

import threading
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from serving_client import Client, ImageError, InvalidRequest, Prediction, ServerUnavailable, preprocessing
from serving_client.stream import STREAM_BATCHES
from serving_client.preprocessing import ImageInput, InputSpec
from serving_client.protocol import Call, Via
from serving_client.transport import Conversation


def pictures(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("train/*/*.jpg"))


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_yields_results_in_order_with_errors_in_their_place(
    client: Client, image_tree: Path, via: Via
) -> None:
    paths = pictures(image_tree) * 3
    images: list[ImageInput] = list(paths)
    images[70] = b"not an image"
    results = list(client.stream(iter(images), via=via))
    assert isinstance(results[70], ImageError)
    one_by_one = {path: client.classify([path], via=via)[0] for path in set(paths)}
    for row, (path, result) in enumerate(zip(paths, results, strict=True)):
        if row != 70:
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
    results.close()  # type: ignore[attr-defined]  # a generator
    stopped = len(read)
    time.sleep(0.1)
    assert len(read) == stopped


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
