"""Find the card that an answer must be read with. Nothing here does I/O.

A version number means something within one model directory only. Servers behind one name differ during
every rollout, and a restarted server may have another model under the same number. So an answer names its
card by the `model_id`, and is never read with another one.
"""

from __future__ import annotations

import dataclasses

import grpc

from serving_client.calls import Answer, ModelCalls, Pause, Steps
from serving_client.errors import DeadlineExceeded, InvalidRequest, ModelNotFound, ServerError
from serving_client.model_card import ModelCard, parse_model_card
from serving_client.signatures import Signature

# Cards that are kept, by model_id: those of all versions of a rollout, and more.
_MAX_CARDS = 32
# How often the server that answered is asked for the card before the prediction is asked for again.
_MAX_FETCHES = 3
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0


class Cards:
    """The cards of one model's versions. Threads may share it.

    Attributes:
      latest: the card that was seen last, to prepare the next request with; the next answer may name another.
      signature: for a model without cards, its inputs.
    """

    def __init__(self, calls: ModelCalls) -> None:
        self.latest: ModelCard | None = None
        self.signature: Signature | None = None
        self._calls = calls
        self._by_model_id: dict[str, ModelCard] = {}

    def fetch(self, version: int | None = None, *, same_server: bool = False) -> Steps[ModelCard]:
        """Fetch the card of a version, or of the one that answers now.

        Raises:
          ServerError: the answer is not a card.
          InvalidRequest: the model has no cards.
        """
        answer = yield from self._calls.predict(
            "describe", {"query": [b"card"]}, version=version, same_server=same_server
        )
        described = answer.outputs.get("card")
        if described is None or described.shape != (1,):
            received = {name: output.shape for name, output in answer.outputs.items()}
            raise ServerError(
                f"Model {self._calls.model!r}: 'describe' must return one card. Received: {received}. Check "
                "that `python -m trainer` published this model."
            )
        card = _served_as(parse_model_card(described[0]), answer.version)
        if card.model_id:
            self._by_model_id[card.model_id] = card
            while len(self._by_model_id) > _MAX_CARDS:
                self._by_model_id.pop(next(iter(self._by_model_id)), None)
        self.latest = card
        return card

    def fetch_card_or_signature(self) -> Steps[ModelCard | Signature]:
        """Fetch the card, or the inputs of a model that has none because others exported it."""
        try:
            return (yield from self.fetch())
        except InvalidRequest as error:
            if error.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
        self.latest = None
        self.signature = yield from self._calls.signature("serving_default")
        return self.signature

    def card_of(self, answer: Answer, asked_with: ModelCard | None) -> Steps[tuple[ModelCard, bool]]:
        """Return the card of an answer, and whether it is certain.

        If it is not, the server that answered is gone or has changed, or a proxy spreads the calls. The
        caller asks for the prediction again, prepared with the returned card.

        Args:
          asked_with: the card that the request was prepared with.
        """
        if not answer.model_id:
            return (yield from self._card_without_identity(answer, asked_with))
        card = self._by_model_id.get(answer.model_id)
        for _ in range(_MAX_FETCHES):
            if card and card.model_id == answer.model_id:
                break
            card = yield from self._fetch_after(answer)
        assert card
        if card.model_id != answer.model_id:
            return card, False
        self.latest = _served_as(card, answer.version)
        return self.latest, True

    def _card_without_identity(
        self, answer: Answer, asked_with: ModelCard | None
    ) -> Steps[tuple[ModelCard, bool]]:
        """Return the card of a version that was exported before 0.2.0.

        Its answer names no card, so none is trusted from one prediction to the next. It is certain only if
        the server showed the same card before the prediction and after it.
        """
        card = yield from self._fetch_after(answer)
        # A proxy may have asked another server, or the version is gone: this may be another one's card.
        is_its_card = not card.model_id and answer.version in (None, card.version)
        return card, is_its_card and card == asked_with

    def _fetch_after(self, answer: Answer) -> Steps[ModelCard]:
        """Fetch the card of the version that answered."""
        try:
            return (yield from self.fetch(answer.version, same_server=True))
        except ModelNotFound:  # a proxy has asked another server, or the version has just been unloaded
            return (yield from self.fetch())


def _served_as(card: ModelCard, version: int | None) -> ModelCard:
    """Return the card with the number under which the server has the version.

    A version may have been copied to another directory.
    """
    return card if version is None else dataclasses.replace(card, version=version)


def pause_before_asking_again(tries: int, answer: Answer) -> Steps[None]:
    """Wait, longer each time.

    Raises:
      ServerError: no time is left, and no card was found for the answers.
    """
    try:
        yield Pause(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**tries))
    except DeadlineExceeded as error:
        named = f"model_id {answer.model_id!r}" if answer.model_id else "no model_id"
        raise ServerError(
            f"An answer can be read only with the card that it names. Received: {named} from version "
            f"{answer.version}. In {tries} tries, no server had that card. Check that all servers behind the "
            "name have the same versions."
        ) from error
