"""`Client`: ask a model on TensorFlow Serving, over one gRPC channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Literal, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from serving_client import card as model_card
from serving_client import codec, preprocessing, wire
from serving_client.card import ModelCard
from serving_client.channel import Tls, open_channel
from serving_client.codec import Prediction
from serving_client.errors import InvalidRequest, ModelNotFound, ServerError
from serving_client.preprocessing import ImageInput

Via = Literal["images", "encoded"]

# Images per request: float32 at 299 px is 1.07 MB an image.
_BATCH_SIZE = 16

_Item = TypeVar("_Item")


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
        """
        if not model:
            raise InvalidRequest("model must name a model on the server. Received an empty name.")
        if not timeout_s > 0:
            raise InvalidRequest(f"timeout_s must be positive. Received: {timeout_s}.")
        if version is not None and label is not None:
            raise InvalidRequest(f"Give version or label, not both. Received: {version} and {label!r}.")
        if label == "" or (version is not None and not 0 <= version < 2**63):
            raise InvalidRequest(
                f"version must be a number of at least 0, label a name. Received: {version}, {label!r}."
            )
        self.server = server
        self.model = model
        self._chosen: int | str | None = label if version is None else version
        self._timeout_s = timeout_s
        self._wait_for_ready = wait_for_ready
        self._channel = open_channel(server, tls)
        self._predict = self._channel.unary_unary(
            wire.PREDICT,
            request_serializer=wire.PredictRequest.SerializeToString,
            response_deserializer=wire.PredictResponse.FromString,
        )
        self._cards: dict[int, ModelCard] = {}
        self._current: ModelCard | None = None

    def describe(self) -> ModelCard:
        """Ask the model for its card: labels, input, metrics, how it was trained.

        Raises:
          ServingError: one of its family.
        """
        self._current = self._fetch_card(self._chosen)
        return self._current

    def classify(
        self, images: Iterable[ImageInput], *, top_k: int = 3, via: Via = "images"
    ) -> list[Prediction]:
        """Classify images of any size: one prediction each, in their order.

        Args:
          images: paths, encoded bytes (JPEG, PNG, BMP, GIF), PIL images or RGB arrays uint8
            (H, W, 3), mixed as you like.
          top_k: how many labels each prediction holds, at least 1; at most all of them.
          via: "images" decodes, resizes and preprocesses here and sends float32; "encoded" sends the
            bytes, and the exported graph does the same work. The answers agree to 1e-4.
        Raises:
          ImageError: an image cannot be read; nothing of its batch was sent.
          ServingError: another of its family.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
            raise InvalidRequest(
                f"images must be a list of images. Received one {type(images).__name__}. Put it into a list."
            )
        if top_k < 1:
            raise InvalidRequest(f"top_k must be at least 1. Received: {top_k}.")
        if via not in ("images", "encoded"):
            raise InvalidRequest(f"via must be 'images' or 'encoded'. Received: {via!r}.")
        return [
            prediction
            for batch in _batched(images, _BATCH_SIZE)
            for prediction in self._classify_batch(batch, top_k, via)
        ]

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
        card = self._current or self.describe()
        try:
            codec.check_images(images, card.input)
            return codec.outputs_of(self._call("serving_default", {"images": images}, self._chosen))
        except InvalidRequest:
            # Perhaps it fits a version that has gone live since the card came.
            live = self.describe()
            if live.input == card.input:
                raise
        codec.check_images(images, live.input)
        return codec.outputs_of(self._call("serving_default", {"images": images}, self._chosen))

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

    def _classify_batch(self, batch: Sequence[ImageInput], top_k: int, via: Via) -> list[Prediction]:
        """Classify with the card at hand, and again if a version with another input is live."""
        card = self._current or self.describe()
        try:
            response = self._send(batch, card, via, self._chosen)
            answered_by = self._card_of(_version_of(response, card))
            again = answered_by.input != card.input
        except (InvalidRequest, ModelNotFound):
            # Made for an input that is not the live version's, or answered by one that is gone already.
            answered_by = self.describe()
            if answered_by.version == card.version:
                raise
            again = True
        if again:
            response = self._send(batch, answered_by, via, answered_by.version)
        self._current = answered_by
        outputs = codec.outputs_of(response)
        if "probabilities" not in outputs:
            raise ServerError(f"{self.server}, model {self.model!r}: the answer holds no 'probabilities'.")
        return codec.predictions(outputs["probabilities"], answered_by, top_k)

    def _send(
        self, batch: Sequence[ImageInput], card: ModelCard, via: Via, version: int | str | None
    ) -> wire.PredictResponse:
        if via == "encoded":
            encoded = [preprocessing.encode(image) for image in batch]
            return self._call("encoded_images", {"encoded": encoded}, version)
        images = np.empty((len(batch), *card.input.shape), np.float32)
        for row, image in zip(images, batch, strict=True):
            row[...] = preprocessing.preprocess(image, card.input)
        return self._call("serving_default", {"images": images}, version)

    def _card_of(self, version: int) -> ModelCard:
        return self._cards.get(version) or self._fetch_card(version)

    def _fetch_card(self, version: int | str | None) -> ModelCard:
        response = self._call("describe", {"query": [b"card"]}, version)
        outputs = codec.outputs_of(response)
        if "card" not in outputs or outputs["card"].shape != (1,):
            raise ServerError(f"{self.server}, model {self.model!r}: 'describe' did not return one card.")
        card = model_card.parse(outputs["card"][0])
        # The number that it is served under: a version may have been copied to another directory.
        card = dataclasses.replace(card, version=_version_of(response, card))
        self._cards[card.version] = card
        return card

    def _call(
        self,
        signature: str,
        inputs: Mapping[str, npt.NDArray[Any] | Sequence[bytes]],
        version: int | str | None,
    ) -> wire.PredictResponse:
        request = codec.predict_request(self.model, signature, inputs, version)
        try:
            response: wire.PredictResponse = self._predict(
                request, timeout=self._timeout_s, wait_for_ready=self._wait_for_ready
            )
            return response
        except grpc.RpcError as error:
            raise codec.error_from(error.code(), error.details() or "", self.server, self.model) from error


def _version_of(response: wire.PredictResponse, asked: ModelCard) -> int:
    """Return the version that answered; a server that does not say is taken at the card's word."""
    return response.model_spec.version.value or asked.version


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
