"""`Client`: a synchronous client for one model on TensorFlow Serving.

To follow one image from file to label, read `Client.classify`, then `Protocol.classify` (which calls are
made), `preprocessing.preprocess` (file to tensor), `codec.encode_predict_request` (tensor to bytes),
`Conversation.send`, and `top_predictions` (probabilities to labels).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy.typing as npt

from serving_client import arguments
from serving_client.connection import DEFAULT_TIMEOUT_S, Metadata, Tls
from serving_client.errors import ImageError, ServingError
from serving_client.model_card import ModelCard
from serving_client.predictions import Outputs, Prediction, VersionStatus
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Pause, Protocol, Result, Steps, Via
from serving_client.streams.closing import Closing
from serving_client.streams.threads import stream_results
from serving_client.transport.threads import Transport

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
        metadata: Metadata = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.UnaryUnaryClientInterceptor] = (),
    ) -> None:
        """Open the client. The first call connects.

        Args:
          server: HOST:PORT of TensorFlow Serving's gRPC API. With a headless Service, dns:///HOST:PORT
            spreads calls over all of its pods.
          model: the model's name on the server.
          version: call only this version number.
          label: call only the version with this label on the server, such as "stable" or "canary". Without
            `version` and `label`, the newest loaded version answers.
          timeout_s: time budget of each batch of images in seconds: its calls with their retries and pauses,
            but not decoding. The other methods have it for their calls together.
          wait_for_ready: wait for a server that is still starting, within the budget.
          tls: None disables encryption.
          metadata: pairs that every call sends, such as [("authorization", "Bearer TOKEN")].
          compression: gRPC's compression of requests. Gzip makes a photograph's float32 pixels 10 to 30 %
            smaller; via="encoded" saves far more.
          interceptors: gRPC's client interceptors, the first one outermost.
        Raises:
          InvalidRequest: an argument is out of range, or a TLS file cannot be read.
        """
        self._server = arguments.check_server(server)
        self._model = arguments.check_model(model)
        self._protocol = Protocol(model, arguments.check_version(version, label))
        self._timeout_s = arguments.check_timeout(timeout_s)
        self._closing = Closing(server, model)
        self._transport = Transport(
            server,
            model,
            **arguments.check_connection(
                wait_for_ready, tls, metadata, compression, interceptors, is_async=False
            ),
        )

    @property
    def server(self) -> str:
        """The server's address as given."""
        return self._server

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    def classify(
        self,
        images: Iterable[ImageInput],
        *,
        top_k: int = 3,
        via: Via = "images",
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> list[Prediction]:
        """Classify images of any size and return one prediction each, in the same order.

        Args:
          images: any number of paths, encoded bytes (JPEG, PNG, BMP, GIF, WebP, HEIC, AVIF), PIL images or
            uint8 RGB arrays (H, W, 3), in any mixture.
          top_k: labels per prediction, at least 1. A prediction never has more scores than the model has
            labels.
          via: "images" decodes, resizes and preprocesses here and sends float32. "encoded" sends the files'
            bytes, and the exported graph does the same work. Probabilities agree to 1e-4.
          timeout_s: time budget of each batch in seconds, without decoding; None takes the client's.
          metadata: pairs that these calls send in addition to the client's.
        Raises:
          ImageError: an image cannot be read; the error names the first such image.
          ServingError: a call failed, or the client is closed.
        """
        results = self.stream(images, top_k=top_k, via=via, timeout_s=timeout_s, metadata=metadata)
        predictions = []
        with contextlib.closing(results):
            for result in results:
                if isinstance(result, ImageError):
                    raise result
                predictions.append(result)
        return predictions

    def stream(
        self,
        images: Iterable[ImageInput],
        *,
        top_k: int = 3,
        via: Via = "images",
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> Generator[Result, None, None]:
        """Classify any number of images in bounded memory; yield a result each, in the same order.

        A batch is sent when it is full, or 0.1 s after its first image, so that a slow source gets its
        answers soon. Several batches (STREAM_BATCHES) are decoded and in flight at the same time. Each result
        is yielded as soon as it and those before it are ready.

        Args:
          images: as for `classify`; the iterable may be endless, and may wait for results that it has caused.
            Unless it is a list, a tuple or an array, a thread of its own reads it, a few batches ahead.
          top_k: as for `classify`.
          via: as for `classify`.
          timeout_s: as for `classify`.
          metadata: as for `classify`.
        Returns:
          Predictions, and an ImageError in place of each image that cannot be read. Closing the generator
          (`contextlib.closing`) abandons the images that are still in flight.
        Raises:
          ServingError: a call failed, or the client is closed. The stream ends there.
          Exception: what the iterable raises, after the results of the images before.
        """
        top_k = arguments.check_stream(images, top_k, via, may_be_async=False)
        settings = self._settings(timeout_s, metadata)
        return stream_results(
            images,
            lambda: self._run(self._protocol.batch_size(via), settings),
            lambda batch: self._run(self._protocol.classify(batch, top_k, via), settings),
            self._closing,
        )

    def predict(
        self,
        inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> Outputs:
        """Send prepared tensors to the signature `serving_default`.

        Args:
          inputs: float32 (N, H, W, 3), N at least 1, as described by the card's `input`. For a model that
            others exported: its input, or its inputs by name.
          timeout_s: time budget of its calls together in seconds; None takes the client's.
          metadata: as for `classify`.
        Returns:
          The outputs by name, such as "logits" and "probabilities", float32 (N, K), with the version and the
          card that they belong to.
        Raises:
          InvalidRequest: the arrays do not fit the model.
          ServingError: the call failed, or the client is closed.
        """
        return self._run(self._protocol.predict(inputs), self._settings(timeout_s, metadata))

    def describe(self, *, timeout_s: float | None = None, metadata: Metadata = ()) -> ModelCard:
        """Fetch the model card: labels, input, metrics, training. The arguments are as for `predict`.

        Raises:
          ServingError: the call failed, or the client is closed.
        """
        return self._run(self._protocol.describe(), self._settings(timeout_s, metadata))

    def status(self, *, timeout_s: float | None = None, metadata: Metadata = ()) -> list[VersionStatus]:
        """Fetch the state of every version on the server, newest first; arguments as for `predict`.

        Raises:
          ServingError: the call failed, or the client is closed.
        """
        return self._run(self._protocol.status(), self._settings(timeout_s, metadata))

    def send(self, call: Call) -> bytes:
        """Make one call of your own and return the encoded response.

        Raises:
          ServingError: the call failed, or the client is closed.
        """
        return self._transport.conversation(self._timeout_s).send(call)

    def close(self) -> None:
        """Close the connection. Calls and streams that wait raise ServingError, and so do later ones."""
        self._closing.close()
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _settings(self, timeout_s: float | None, metadata: Metadata) -> tuple[float, Metadata]:
        """Return the checked time budget and metadata of a call."""
        self._closing.check()
        budget_s = self._timeout_s if timeout_s is None else arguments.check_timeout(timeout_s)
        return budget_s, arguments.check_metadata(metadata)

    def _run(self, steps: Steps[_T], settings: tuple[float, Metadata]) -> _T:
        """Make the conversation's calls one after the other and return its result."""
        conversation = self._transport.conversation(*settings)
        try:
            step = next(steps)
            while True:
                try:
                    response = b""
                    if isinstance(step, Pause):
                        conversation.pause(step.seconds)
                    else:
                        response = conversation.send(step)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as done:
            result: _T = done.value
            return result
