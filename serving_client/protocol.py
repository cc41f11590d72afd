"""The calls of one request and what follows from the answers, without I/O.

`Client` and `AsyncClient` share it. Each method of `Protocol` is a generator: it yields a `Call`, receives
the response (or the error, thrown into it), and returns its result. The client decides how to send and how to
wait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from serving_client import codec, preprocessing, wire
from serving_client.codec import Prediction, VersionStatus
from serving_client.errors import ImageError, InvalidRequest, ModelNotFound, ServerError
from serving_client.model_card import ModelCard, parse_model_card
from serving_client.preprocessing import ImageInput, InputSpec

Via = Literal["images", "encoded"]
Result = Prediction | ImageError

# One request holds at most this many bytes (8 float32 images of 299 px) and this many images.
_MAX_REQUEST_BYTES = 16 * 2**20
_MAX_REQUEST_IMAGES = 32

# The signature for each way to send images, and the name of each signature's input.
_SIGNATURES: dict[Via, str] = {"images": "serving_default", "encoded": "encoded_images"}
_INPUT_NAMES = {"serving_default": "images", "encoded_images": "encoded", "describe": "query"}

# Takes an image's place among the results until the server answers.
_UNANSWERED: Any = object()

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Call:
    """One gRPC call: the method's path, and the encoded request."""

    method: str
    request: bytes


Steps = Generator[Call, bytes, _T]
"""A conversation: yields calls, receives encoded responses, returns its result."""


class Protocol:
    """Conversations with one model on one server. Threads may share it."""

    def __init__(self, server: str, model: str, version: int | None, label: str | None) -> None:
        """Check the arguments.

        Raises:
          InvalidRequest: the model's name is empty, version or label is out of range, or both are given.
        """
        if not model:
            raise InvalidRequest("model must name a model on the server. Received: an empty name.")
        if version is not None and label is not None:
            raise InvalidRequest(f"Give version or label, not both. Received: {version} and {label!r}.")
        if label == "" or (version is not None and not 0 <= version < 2**63):
            raise InvalidRequest(
                "version must be a whole number from 0 to 2**63 - 1, and label must not be empty. "
                f"Received: version {version}, label {label!r}."
            )
        self.server = server
        self.model = model
        self._requested: int | str | None = label if version is None else version
        self._cards: dict[int, ModelCard] = {}
        self._current_card: ModelCard | None = None

    def classify(self, batch: Sequence[ImageInput], top_k: int, via: Via) -> Steps[list[Result]]:
        """Classify one batch with the known card.

        If a version with another input answers, or the known version is gone, prepare the batch again with
        the card of the live version and send it to exactly that version.
        """
        card = self._current_card or (yield from self.describe())
        results, inputs = _prepare(batch, card.input, via)
        if not len(inputs):
            return results
        try:
            response = yield from self._predict(_SIGNATURES[via], inputs, self._requested)
            answered_by = yield from self._card_of(_version_of(response, card))
            must_repeat = answered_by.input != card.input
        except (InvalidRequest, ModelNotFound):
            # Either the live version refused the old version's input, or the version that answered is gone.
            answered_by = yield from self.describe()
            if answered_by.version == card.version:
                raise
            must_repeat = True
        if must_repeat:
            results, inputs = _prepare(batch, answered_by.input, via)
            response = yield from self._predict(_SIGNATURES[via], inputs, answered_by.version)
        self._current_card = answered_by
        return self._fill_in(results, batch, response, answered_by, top_k)

    def predict(self, images: npt.NDArray[np.float32]) -> Steps[dict[str, npt.NDArray[Any]]]:
        """Send a preprocessed tensor; if it does not fit the known card, fetch the live version's card."""
        card = self._current_card or (yield from self.describe())
        try:
            codec.check_images(images, card.input)
            return codec.decode_outputs(
                (yield from self._predict("serving_default", images, self._requested))
            )
        except InvalidRequest:
            # The array may fit a version that has gone live since the card was fetched.
            live = yield from self.describe()
            if live.input == card.input:
                raise
        codec.check_images(images, live.input)
        return codec.decode_outputs((yield from self._predict("serving_default", images, self._requested)))

    def describe(self) -> Steps[ModelCard]:
        """Fetch the card of the version that answers now."""
        self._current_card = yield from self._fetch_card(self._requested)
        return self._current_card

    def status(self) -> Steps[list[VersionStatus]]:
        """Fetch the state of every version, newest first."""
        request = codec.encode_status_request(self.model, self._requested)
        response = yield Call(wire.GET_MODEL_STATUS, request)
        return codec.decode_status_response(response)

    def batch_size(self, via: Via) -> Steps[int]:
        """Return how many images one request holds: a power of 2, like the server's batch sizes."""
        card = self._current_card or (yield from self.describe())
        height, width, channels = card.input.shape
        image_bytes = height * width * channels * 4
        fitting = _MAX_REQUEST_IMAGES if via == "encoded" else _MAX_REQUEST_BYTES // image_bytes
        return 1 << (min(max(fitting, 1), _MAX_REQUEST_IMAGES).bit_length() - 1)

    def _fill_in(
        self,
        results: list[Result],
        batch: Sequence[ImageInput],
        response: wire.PredictResponse,
        card: ModelCard,
        top_k: int,
    ) -> list[Result]:
        """Put the server's answers into the results that are still unanswered."""
        outputs = codec.decode_outputs(response)
        if "probabilities" not in outputs:
            raise ServerError(
                f"{self.server}, model {self.model!r}: the answer must hold 'probabilities'. Received: "
                f"{sorted(outputs)}. Check that `python -m trainer` published this model."
            )
        answers = codec.top_predictions(outputs["probabilities"], card, top_k)
        rows = [row for row, result in enumerate(results) if result is _UNANSWERED]
        if len(answers) != len(rows):
            raise ServerError(
                f"{self.server}, model {self.model!r}: the answer must hold one row per image. Sent: "
                f"{len(rows)} images. Received: {len(answers)} rows. See the server's log."
            )
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, ImageError):
                answer = ImageError(f"{preprocessing.display_name(batch[row])}: {answer}")
            results[row] = answer
        return results

    def _card_of(self, version: int) -> Steps[ModelCard]:
        return self._cards.get(version) or (yield from self._fetch_card(version))

    def _fetch_card(self, version: int | str | None) -> Steps[ModelCard]:
        response = yield from self._predict("describe", [b"card"], version)
        outputs = codec.decode_outputs(response)
        if "card" not in outputs or outputs["card"].shape != (1,):
            raise ServerError(
                f"{self.server}, model {self.model!r}: 'describe' must return one card. Received: "
                f"{ {name: output.shape for name, output in outputs.items()} }. Check that "
                "`python -m trainer` published this model."
            )
        card = parse_model_card(outputs["card"][0])
        # A version may have been copied to another directory. The number under which it is served counts.
        card = dataclasses.replace(card, version=_version_of(response, card))
        self._cards[card.version] = card
        return card

    def _predict(
        self, signature: str, value: npt.NDArray[Any] | Sequence[bytes], version: int | str | None
    ) -> Steps[wire.PredictResponse]:
        inputs = {_INPUT_NAMES[signature]: value}
        request = codec.encode_predict_request(self.model, signature, inputs, version)
        response = yield Call(wire.PREDICT, request)
        return codec.decode_predict_response(response)


def check_classify(images: object, top_k: int, via: str) -> None:
    """Raise InvalidRequest unless `classify` accepts these arguments."""
    if isinstance(images, (str, bytes)) or not hasattr(images, "__iter__"):
        raise InvalidRequest(
            f"images must be a list of images. Received: one {type(images).__name__}. Put it into a list."
        )
    if top_k < 1:
        raise InvalidRequest(f"top_k must be at least 1. Received: {top_k}.")
    if via not in get_args(Via):
        raise InvalidRequest(f"via must be 'images' or 'encoded'. Received: {via!r}.")


def predictions_or_raise(results: Sequence[Result]) -> list[Prediction]:
    """Return the predictions.

    Raises:
      ImageError: the first one among the results.
    """
    for result in results:
        if isinstance(result, ImageError):
            raise result
    return [result for result in results if isinstance(result, Prediction)]


def _prepare(
    batch: Sequence[ImageInput], spec: InputSpec, via: Via
) -> tuple[list[Result], npt.NDArray[np.float32] | list[bytes]]:
    """Decode a batch.

    Returns:
      A result per image, ImageError for an invalid one and _UNANSWERED for the others; and the input tensor
      of the valid images.
    """
    results: list[Result] = []
    encoded: list[bytes] = []
    rows = np.empty((0 if via == "encoded" else len(batch), *spec.shape), np.float32)
    valid = 0
    for image in batch:
        try:
            if via == "encoded":
                encoded.append(preprocessing.encode(image, spec))
            else:
                rows[valid] = preprocessing.preprocess(image, spec)
        except ImageError as error:
            results.append(error)
        else:
            results.append(_UNANSWERED)
            valid += 1
    return results, encoded if via == "encoded" else rows[:valid]


def _version_of(response: wire.PredictResponse, card: ModelCard) -> int:
    """Return the version that answered, or the card's version if the server does not say."""
    return response.model_spec.version.value or card.version
