"""`Client`: a synchronous client for one model on TensorFlow Serving.

To follow one image from file to label, read `Client.classify`, then `Protocol.classify` (which calls are
made), `preprocessing.preprocess` (file to tensor), `codec.encode_predict_request` (tensor to bytes),
`Client.send`, and `codec.top_predictions` (probabilities to labels).
"""

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
from serving_client.channel import DEFAULT_TIMEOUT_S, METHODS, Tls, check_timeout, open_channel
from serving_client.codec import Prediction, VersionStatus
from serving_client.errors import ServingError
from serving_client.model_card import ModelCard
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Protocol, Result, Steps, Via

# Batches that one stream decodes, sends and waits for in parallel, in `Client` and in `AsyncClient`.
STREAM_BATCHES = min(8, (os.cpu_count() or 1) + 2)

_T = TypeVar("_T")


class Client:
    """Classifies images with one model on one server. Threads may share a client.

    It needs the server's address and the model's name. The model describes its labels and its input.

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
        timeout_s: float = DEFAULT_TIMEOUT_S,
        wait_for_ready: bool = False,
        tls: Tls | None = None,
    ) -> None:
        """Open a channel. The first call connects.

        gRPC retries calls that find no server or an overloaded one, within the deadline.

        Args:
          server: HOST:PORT of TensorFlow Serving's gRPC API. With a headless Service, dns:///HOST:PORT
            spreads calls over all of its pods.
          version: call only this version number.
          label: call only the version with this label on the server, such as "stable" or "canary". Without
            `version` and `label`, the newest loaded version answers.
          timeout_s: deadline of each call in seconds, retries included.
          wait_for_ready: wait for a server that is still starting, within the deadline.
          tls: None disables encryption.
        Raises:
          InvalidRequest: an argument is out of range, or a TLS file cannot be read.
        """
        check_timeout(timeout_s)
        self._protocol = Protocol(server, model, version, label)
        self._timeout_s = timeout_s
        self._wait_for_ready = wait_for_ready
        self._channel = open_channel(server, tls)
        self._methods = {method: self._channel.unary_unary(method) for method in METHODS}

    @property
    def server(self) -> str:
        """The server's address as given."""
        return self._protocol.server

    @property
    def model(self) -> str:
        """The model's name."""
        return self._protocol.model

    def classify(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> list[Prediction]:
        """Classify images of any size and return one prediction each, in the same order.

        Args:
          images: any number of paths, encoded bytes (JPEG, PNG, BMP, GIF, WebP, HEIC, AVIF), PIL images or
            uint8 RGB arrays (H, W, 3), in any mixture.
          top_k: labels per prediction, at least 1. A prediction never has more scores than the model has
            labels.
          via: "images" decodes, resizes and preprocesses here and sends float32. "encoded" sends the files'
            bytes, and the exported graph does the same work. Probabilities agree to 1e-4.
        Raises:
          ImageError: an image cannot be read; the error names the first such image.
          ServingError: the call failed.
        """
        results = self.stream(images, top_k=top_k, via=via)
        return [prediction for result in results for prediction in protocol.predictions_or_raise([result])]

    def stream(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> Iterator[Result]:
        """Classify any number of images in bounded memory; yield a result each, in the same order.

        It reads the images as the caller takes results, decodes batches in threads, and keeps several batches
        (STREAM_BATCHES) in flight.

        Args:
          images: as for `classify`; the iterable may be endless.
          top_k: as for `classify`.
          via: as for `classify`.
        Returns:
          Predictions, and an ImageError in place of each image that cannot be read.
        Raises:
          ServingError: a call failed. The stream ends there.
        """
        protocol.check_classify(images, top_k, via)
        return self._stream(iter(images), top_k, via)

    def predict(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Send a preprocessed tensor.

        Args:
          images: float32 (N, H, W, 3), N at least 1, as described by the card's `input`.
        Returns:
          "logits" and "probabilities", float32 (N, K).
        Raises:
          InvalidRequest: the array does not fit the card.
          ServingError: the call failed.
        """
        return self._run(self._protocol.predict(images))

    def describe(self) -> ModelCard:
        """Fetch the model card: labels, input, metrics and how the model was trained.

        Raises:
          ServingError: the call failed.
        """
        return self._run(self._protocol.describe())

    def status(self) -> list[VersionStatus]:
        """Fetch the state of every version on the server, newest first.

        Raises:
          ServingError: the call failed.
        """
        return self._run(self._protocol.status())

    def send(self, call: Call) -> bytes:
        """Make one call of `serving_client.protocol` and return the encoded response.

        Raises:
          ServingError: the call failed.
        """
        try:
            response: bytes = self._methods[call.method](
                call.request, timeout=self._timeout_s, wait_for_ready=self._wait_for_ready
            )
            return response
        except grpc.RpcError as error:
            raise codec.error_for_status(
                error.code(), error.details() or "", self.server, self.model
            ) from error

    def close(self) -> None:
        """Close the channel. Calls in flight end with an error."""
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
        first = list(islice(images, 1))
        if not first:
            return  # without images there is nothing to ask the server
        size = self._run(self._protocol.batch_size(via))
        images = chain(first, images)
        batch = list(islice(images, size))
        if len(batch) < size:  # a single batch needs no threads
            yield from self._run(self._protocol.classify(batch, top_k, via))
            return
        pending: deque[Future[list[Result]]] = deque()
        pool = ThreadPoolExecutor(STREAM_BATCHES, "classify")
        try:
            while batch:
                pending.append(pool.submit(self._run, self._protocol.classify(batch, top_k, via)))
                if len(pending) == STREAM_BATCHES:
                    yield from pending.popleft().result()
                batch = list(islice(images, size))
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run(self, steps: Steps[_T]) -> _T:
        """Make the conversation's calls one after the other and return its result."""
        try:
            call = next(steps)
            while True:
                try:
                    response = self.send(call)
                except ServingError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as done:
            result: _T = done.value
            return result
