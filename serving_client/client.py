"""`Client`: ask a model on TensorFlow Serving, over one gRPC channel."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from serving_client import codec, protocol
from serving_client.card import ModelCard
from serving_client.channel import METHODS, Tls, open_channel
from serving_client.codec import Prediction, VersionStatus
from serving_client.errors import ServingError
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Protocol, Result, Steps, Via

# Batches that `stream` decodes and waits for at the same time.
IN_FLIGHT = min(8, (os.cpu_count() or 1) + 2)

_T = TypeVar("_T")


class Client:
    """Asks one model on one server; safe to share between threads.

    It needs nothing but address and name: the model describes its own labels and input.

        with Client("localhost:8500", model="demo") as client:
            for prediction in client.classify(["cat.jpg", "dog.png"]):
                print(prediction.label, prediction.probability)
    """

    def __init__(
        self,
        server: str,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 10.0,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
    ) -> None:
        """Open a channel; nothing is sent yet.

        A call that finds no server, or a server that is overloaded, is sent again within its deadline.

        Args:
          server: HOST:PORT of TensorFlow Serving's gRPC API; dns:///HOST:PORT with a headless Service, so
            that calls are spread over all its pods.
          version: ask this version and no other.
          label: ask the version that has this label on the server, "stable" or "canary"; with neither
            `version` nor `label`, the newest one that is loaded.
          timeout_s: deadline of each call in seconds.
          wait_for_ready: within the deadline, wait for a server that is still starting.
          tls: None: in the clear.
        Raises:
          InvalidRequest: an argument cannot be used.
        """
        protocol.check_timeout(timeout_s)
        self._protocol = Protocol(server, model, version, label)
        self._timeout_s = timeout_s
        self._wait_for_ready = wait_for_ready
        self._channel = open_channel(server, tls)
        self._methods = {method: self._channel.unary_unary(method) for method in METHODS}

    @property
    def server(self) -> str:
        """The address that it was opened with."""
        return self._protocol.server

    @property
    def model(self) -> str:
        """The model's name."""
        return self._protocol.model

    def describe(self) -> ModelCard:
        """Ask the model for its card: labels, input, metrics, how it was trained.

        Raises:
          ServingError: one of its family.
        """
        return self._run(self._protocol.describe())

    def status(self) -> list[VersionStatus]:
        """Ask the server which versions it has and what has become of them, newest first.

        Raises:
          ServingError: one of its family.
        """
        return self._run(self._protocol.status())

    def classify(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> list[Prediction]:
        """Classify images of any size: one prediction each, in their order.

        Args:
          images: paths, encoded bytes (JPEG, PNG, BMP, GIF), PIL images or RGB arrays uint8
            (H, W, 3), mixed as you like; any number, `stream` says how they are sent.
          top_k: how many labels each prediction holds, at least 1; at most all of them.
          via: "images" decodes, resizes and preprocesses here and sends float32; "encoded" sends the
            bytes, and the exported graph does the same work. The answers agree to 1e-4.
        Raises:
          ImageError: an image cannot be read: the first of them.
          ServingError: another of its family.
        """
        results = self.stream(images, top_k=top_k, via=via)
        return [prediction for result in results for prediction in protocol.raise_image_error([result])]

    def stream(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> Iterator[Result]:
        """Classify any number of images, in bounded memory: a result each, in their order, as they come.

        The images are read as the results are taken. Batches of the model's size are decoded in threads,
        and several are on their way at the same time.

        Args:
          images: an iterable as `classify` takes; it may never end.
          top_k: as in `classify`.
          via: as in `classify`.
        Returns:
          Predictions, and an ImageError in the place of each image that cannot be read.
        Raises:
          ServingError: another of its family; the images after it are not sent.
        """
        protocol.check_classify(images, top_k, via)
        return self._stream(iter(images), top_k, via)

    def predict(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Send a tensor that is preprocessed already.

        Args:
          images: float32 (N, H, W, 3) as the card's input says, N at least 1.
        Returns:
          "logits" and "probabilities", float32 (N, K).
        Raises:
          InvalidRequest: the array does not fit the card.
          ServingError: another of its family.
        """
        return self._run(self._protocol.predict(images))

    def send(self, call: Call) -> bytes:
        """Make one call of `serving_client.protocol`, and return the answer's bytes.

        Raises:
          ServingError: one of its family.
        """
        try:
            answer: bytes = self._methods[call.method](
                call.request, timeout=self._timeout_s, wait_for_ready=self._wait_for_ready
            )
            return answer
        except grpc.RpcError as error:
            raise codec.error_from(error.code(), error.details() or "", self.server, self.model) from error

    def close(self) -> None:
        """Close the channel; calls that are still waiting end with an error."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(self, images: Iterator[ImageInput], top_k: int, via: Via) -> Iterator[Result]:
        for first in islice(images, 1):  # no images, no call
            images = chain([first], images)
            size = self._run(self._protocol.batch_size(via))
            batch = list(islice(images, size))
            if len(batch) < size:  # all of them: no threads
                yield from self._run(self._protocol.classify(batch, top_k, via))
                return
            pending: deque[Future[list[Result]]] = deque()
            pool = ThreadPoolExecutor(IN_FLIGHT, "classify")
            try:
                while batch:
                    pending.append(pool.submit(self._run, self._protocol.classify(batch, top_k, via)))
                    if len(pending) == IN_FLIGHT:
                        yield from pending.popleft().result()
                    batch = list(islice(images, size))
                while pending:
                    yield from pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _run(self, steps: Steps[_T]) -> _T:
        """Carry out the protocol's calls, one after the other."""
        try:
            call = next(steps)
            while True:
                try:
                    answer = self.send(call)
                except ServingError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: _T = done.value
            return result
