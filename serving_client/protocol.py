"""The conversations that `Client` and `AsyncClient` have with a model, without I/O.

Behind one name, servers may differ for a while: in their versions, in what a label stands for, in the model
itself. So a card says how to prepare a request, but not who will answer it; each answer is read with the card
that it names (`cards.py`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from serving_client import cards, codec, signatures
from serving_client.batches import Batch, Result, Via, largest_batch
from serving_client.calls import Call, ModelCalls, Pause, Steps
from serving_client.cards import Cards
from serving_client.errors import InvalidRequest
from serving_client.model_card import ModelCard
from serving_client.predictions import Outputs, VersionStatus
from serving_client.preprocessing import ImageInput
from serving_client.signatures import Signature

__all__ = ["Call", "Pause", "Protocol", "Result", "Steps", "Via"]

# If a proxy spreads calls over servers that differ, a request may be refused several times in a row. With two
# servers, this many refusals have a probability of 1 in 65,536.
_MAX_REFUSALS = 16
# How often a card is fetched for tensors that do not fit it.
_MAX_MISFITS = 4


class Protocol:
    """Conversations with one model. Threads may share it."""

    def __init__(self, model: str, requested: int | str | None) -> None:
        """Take a checked version number or label; None is the newest version."""
        self._calls = ModelCalls(model, requested)
        self._cards = Cards(self._calls)

    def classify(self, images: Sequence[ImageInput], top_k: int, via: Via) -> Steps[list[Result]]:
        """Prepare one batch, ask, and read the answer with the card that it names.

        The batch is prepared for the version that answered last. If another one answers or refuses it, it is
        prepared for that version and sent again, to the same server.
        """
        card = self._cards.latest or (yield from self._cards.fetch())
        batch: Batch | None = None
        same_server = False
        refusals = misfits = unreadable = 0
        while True:
            if batch is None or not batch.fits(card.input):
                batch = Batch.prepare(images, via, card.input)
            if not len(batch.inputs):
                return [batch.invalid[index] for index in range(len(images))]
            try:
                answer = yield from self._calls.predict(
                    batch.signature, batch.named_inputs, same_server=same_server
                )
            except InvalidRequest:
                refusals += 1
                # The bytes of files do not depend on the version, so another one would refuse them too.
                if via == "encoded" or refusals == _MAX_REFUSALS:
                    raise
                # A proxy may take turns: predictions to one server, questions for the card to the other.
                if refusals == 1 or random.random() < 0.5:
                    card = yield from self._cards.fetch(same_server=True)
                same_server = True
                continue
            answered_by, is_certain = yield from self._cards.card_of(answer, card)
            if is_certain and batch.fits(answered_by.input):
                return batch.results(answer, answered_by, top_k)
            misfits += is_certain
            # A proxy may take turns here too, so the batch is not always prepared anew.
            if not is_certain or misfits == 1 or random.random() < 0.5:
                card = answered_by
            same_server = True
            if not is_certain:
                unreadable += 1
                yield from cards.pause_before_asking_again(unreadable, answer)

    def predict(self, inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]) -> Steps[Outputs]:
        """Send tensors that the caller has prepared. Without a fitting version, the call fails."""
        known = (
            self._cards.latest or self._cards.signature or (yield from self._cards.fetch_card_or_signature())
        )
        misfits = refusals = unreadable = 0
        while True:
            try:
                named = _checked(inputs, known)
            except InvalidRequest:
                # The tensors may fit a version that has gone live since, or the version of another server.
                misfits += 1
                if misfits == _MAX_MISFITS:
                    raise
                known = yield from self._cards.fetch_card_or_signature()
                continue
            try:
                answer = yield from self._calls.predict("serving_default", named)
            except InvalidRequest:
                refusals += 1
                if refusals == _MAX_REFUSALS:
                    raise
                if refusals == 1 or random.random() < 0.5:
                    known = yield from self._cards.fetch_card_or_signature()
                continue
            if not isinstance(known, ModelCard) and not answer.model_id:
                return Outputs(answer.outputs, answer.version, None)
            asked_with = known if isinstance(known, ModelCard) else None
            known, is_certain = yield from self._cards.card_of(answer, asked_with)
            if is_certain:
                return Outputs(answer.outputs, known.version, known)
            unreadable += 1
            yield from cards.pause_before_asking_again(unreadable, answer)

    def describe(self) -> Steps[ModelCard]:
        """Fetch the card of the version that answers now."""
        return self._cards.fetch()

    def status(self) -> Steps[list[VersionStatus]]:
        """Fetch the state of every version, newest first."""
        return self._calls.status()

    def batch_size(self, via: Via) -> Steps[int]:
        """Return how many images one request holds."""
        card = self._cards.latest or (yield from self._cards.fetch())
        return largest_batch(card, via)


def _checked(
    inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]], known: ModelCard | Signature
) -> Mapping[str, npt.NDArray[Any]]:
    """Return the tensors by the names of the model's inputs.

    Raises:
      InvalidRequest: they do not fit what is known about the model.
    """
    if isinstance(known, ModelCard):
        if isinstance(inputs, Mapping):
            if set(inputs) != {"images"}:
                raise InvalidRequest(f"The model's input is 'images'. Received: {', '.join(sorted(inputs))}.")
            inputs = inputs["images"]
        codec.check_images(inputs, known.input)
        return {"images": inputs}
    if not isinstance(inputs, Mapping):
        if len(known) != 1:
            raise InvalidRequest(
                f"The model has {len(known)} inputs: {', '.join(sorted(known))}. Received: one array. Pass a "
                "mapping from names to arrays."
            )
        inputs = dict.fromkeys(known, inputs)
    signatures.check_inputs(inputs, known)
    return inputs
