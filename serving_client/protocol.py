"""What is asked, and what follows from the answers, without I/O: for `Client` and `AsyncClient` alike.

Each method of `Protocol` is a generator: it yields a `Call`, is sent the answer (or thrown the error), and
returns its result. Who sends, and how it waits, is up to the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from serving_client import card as model_card
from serving_client import codec, preprocessing, wire
from serving_client.card import ModelCard
from serving_client.codec import Prediction, VersionStatus
from serving_client.errors import ImageError, InvalidRequest, ModelNotFound, ServerError
from serving_client.preprocessing import ImageInput, InputSpec

Via = Literal["images", "encoded"]
Result = Prediction | ImageError

# A request should fill the server's batch, and hold no more than this: 8 float32 images of 299 px.
_REQUEST_BYTES = 16 * 2**20
_MAX_IMAGES = 32

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Call:
    """One gRPC call: its method's path and the request as bytes."""

    method: str
    request: bytes


Steps = Generator[Call, bytes, _T]


class Protocol:
    """Conversations with one model on one server; safe to share between threads."""

    def __init__(self, server: str, model: str, version: int | None, label: str | None) -> None:
        """Check what is asked for.

        Raises:
          InvalidRequest: no model, both version and label, or one of them that cannot be.
        """
        if not model:
            raise InvalidRequest("model must name a model on the server. Received an empty name.")
        if version is not None and label is not None:
            raise InvalidRequest(f"Give version or label, not both. Received: {version} and {label!r}.")
        if label == "" or (version is not None and not 0 <= version < 2**63):
            raise InvalidRequest(
                f"version must be a number of at least 0, label a name. Received: {version}, {label!r}."
            )
        self.server = server
        self.model = model
        self._chosen: int | str | None = label if version is None else version
        self._cards: dict[int, ModelCard] = {}
        self._current: ModelCard | None = None

    def describe(self) -> Steps[ModelCard]:
        """Fetch the card of the version that answers now."""
        self._current = yield from self._fetch_card(self._chosen)
        return self._current

    def status(self) -> Steps[list[VersionStatus]]:
        """Ask which versions there are, and what has become of them; newest first."""
        response = yield Call(wire.GET_MODEL_STATUS, codec.status_request(self.model, self._chosen))
        return codec.status_of(response)

    def batch_size(self, via: Via) -> Steps[int]:
        """Return how many images a request should hold: a power of 2, as servers' batches are."""
        card = self._current or (yield from self.describe())
        height, width, channels = card.input.shape
        fit = _MAX_IMAGES if via == "encoded" else _REQUEST_BYTES // (height * width * channels * 4)
        return 1 << (min(max(fit, 1), _MAX_IMAGES).bit_length() - 1)

    def predict(self, images: npt.NDArray[np.float32]) -> Steps[dict[str, npt.NDArray[Any]]]:
        """Send a tensor that is preprocessed already."""
        card = self._current or (yield from self.describe())
        try:
            codec.check_images(images, card.input)
            return codec.outputs_of((yield from self._ask("serving_default", images, self._chosen)))
        except InvalidRequest:
            # Perhaps it fits a version that has gone live since the card came.
            live = yield from self.describe()
            if live.input == card.input:
                raise
        codec.check_images(images, live.input)
        return codec.outputs_of((yield from self._ask("serving_default", images, self._chosen)))

    def classify(self, batch: Sequence[ImageInput], top_k: int, via: Via) -> Steps[list[Result]]:
        """Classify with the card at hand, and again if a version with another input is live."""
        card = self._current or (yield from self.describe())
        results, inputs = _prepare(batch, card.input, via)
        if not len(inputs):
            return results
        try:
            response = yield from self._ask(_SIGNATURES[via], inputs, self._chosen)
            answered_by = yield from self._card_of(_version_of(response, card))
            again = answered_by.input != card.input
        except (InvalidRequest, ModelNotFound):
            # Made for an input that is not the live version's, or answered by one that is gone already.
            answered_by = yield from self.describe()
            if answered_by.version == card.version:
                raise
            again = True
        if again:
            results, inputs = _prepare(batch, answered_by.input, via)
            response = yield from self._ask(_SIGNATURES[via], inputs, answered_by.version)
        self._current = answered_by
        return self._merged(results, batch, response, answered_by, top_k)

    def _merged(
        self,
        results: list[Result],
        batch: Sequence[ImageInput],
        response: wire.PredictResponse,
        card: ModelCard,
        top_k: int,
    ) -> list[Result]:
        """Put the answers where no error stands."""
        outputs = codec.outputs_of(response)
        if "probabilities" not in outputs:
            raise ServerError(f"{self.server}, model {self.model!r}: the answer holds no 'probabilities'.")
        answers = codec.predictions(outputs["probabilities"], card, top_k)
        asked = [row for row, result in enumerate(results) if result is _ASKED]
        if len(answers) != len(asked):
            raise ServerError(
                f"{self.server}, model {self.model!r}: {len(asked)} images were sent, and {len(answers)} "
                "were answered."
            )
        for row, answer in zip(asked, answers, strict=True):
            if isinstance(answer, ImageError):
                answer = ImageError(f"{preprocessing.named(batch[row])}: {answer}")
            results[row] = answer
        return results

    def _card_of(self, version: int) -> Steps[ModelCard]:
        return self._cards.get(version) or (yield from self._fetch_card(version))

    def _fetch_card(self, version: int | str | None) -> Steps[ModelCard]:
        response = yield from self._ask("describe", [b"card"], version)
        outputs = codec.outputs_of(response)
        if "card" not in outputs or outputs["card"].shape != (1,):
            raise ServerError(f"{self.server}, model {self.model!r}: 'describe' did not return one card.")
        card = model_card.parse(outputs["card"][0])
        # The number that it is served under: a version may have been copied to another directory.
        card = dataclasses.replace(card, version=_version_of(response, card))
        self._cards[card.version] = card
        return card

    def _ask(
        self, signature: str, value: npt.NDArray[Any] | Sequence[bytes], version: int | str | None
    ) -> Steps[wire.PredictResponse]:
        inputs = {_INPUTS[signature]: value}
        response = yield Call(wire.PREDICT, codec.predict_request(self.model, signature, inputs, version))
        return codec.response_of(response)


_SIGNATURES: dict[Via, str] = {"images": "serving_default", "encoded": "encoded_images"}
_INPUTS = {"serving_default": "images", "encoded_images": "encoded", "describe": "query"}

# Stands in a result until its answer comes.
_ASKED: Any = object()


def check_classify(images: object, top_k: int, via: str) -> None:
    """Raise InvalidRequest unless these are arguments for `classify`."""
    if isinstance(images, (str, bytes)) or not hasattr(images, "__iter__"):
        raise InvalidRequest(
            f"images must be a list of images. Received one {type(images).__name__}. Put it into a list."
        )
    if top_k < 1:
        raise InvalidRequest(f"top_k must be at least 1. Received: {top_k}.")
    if via not in get_args(Via):
        raise InvalidRequest(f"via must be 'images' or 'encoded'. Received: {via!r}.")


def check_timeout(timeout_s: float) -> None:
    """Raise InvalidRequest unless calls can have this deadline."""
    if not timeout_s > 0:
        raise InvalidRequest(f"timeout_s must be positive. Received: {timeout_s}.")


def raise_image_error(results: Sequence[Result]) -> list[Prediction]:
    """Return the predictions, if all of them are.

    Raises:
      ImageError: the first that stands among them.
    """
    for result in results:
        if isinstance(result, ImageError):
            raise result
    return [result for result in results if isinstance(result, Prediction)]


def _prepare(
    batch: Sequence[ImageInput], spec: InputSpec, via: Via
) -> tuple[list[Result], npt.NDArray[np.float32] | list[bytes]]:
    """Return errors where images are bad, _ASKED elsewhere; and the tensor of the others."""
    results: list[Result] = []
    encoded: list[bytes] = []
    rows = np.empty((0 if via == "encoded" else len(batch), *spec.shape), np.float32)
    good = 0
    for image in batch:
        try:
            if via == "encoded":
                encoded.append(preprocessing.encode(image))
            else:
                rows[good] = preprocessing.preprocess(image, spec)
        except ImageError as error:
            results.append(error)
        else:
            results.append(_ASKED)
            good += 1
    return results, encoded if via == "encoded" else rows[:good]


def _version_of(response: wire.PredictResponse, asked: ModelCard) -> int:
    """Return the version that answered; a server that does not say is taken at the card's word."""
    return response.model_spec.version.value or asked.version
