"""The calls to one model on TensorFlow Serving, as steps without I/O.

A conversation is a generator: it yields a `Call` or a `Pause`, receives the response (or the error, thrown
into it), and returns its result. `Client` and `AsyncClient` decide how to send and how to wait.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import numpy.typing as npt

from serving_client import codec, signatures, wire
from serving_client.errors import DeadlineExceeded, ModelNotFound
from serving_client.predictions import VersionStatus
from serving_client.signatures import Signature

# If one of two servers behind a proxy has the version, calls that are spread at random miss it 16 times in a
# row with a probability of 1 in 65,536.
_MAX_TRIES = 16
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.04

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Call:
    """One gRPC call.

    Attributes:
      method: the method's path.
      request: the encoded message.
      same_server: ask the server that answered or refused the conversation's last call.
    """

    method: str
    request: bytes
    same_server: bool = False


@dataclasses.dataclass(frozen=True)
class Pause:
    """Time to wait before the next call."""

    seconds: float


Steps = Generator[Call | Pause, bytes, _T]
"""A conversation: yields calls, receives encoded responses (b"" after a pause), returns its result."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a version answered.

    Attributes:
      outputs: by name; strings are bytes in arrays of dtype object.
      version: the number under which the server has it; None if it does not say.
      model_id: the identity of the card to read it with; empty for versions exported before 0.2.0.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    version: int | None
    model_id: str


class ModelCalls:
    """The calls to one model, each as steps that return the decoded answer.

    Attributes:
      requested: the version number or label that is asked for; None is the newest.
    """

    def __init__(self, model: str, requested: int | str | None) -> None:
        self.model = model
        self.requested = requested

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, npt.NDArray[Any] | Sequence[bytes]],
        *,
        version: int | None = None,
        same_server: bool = False,
    ) -> Steps[Answer]:
        """Run a signature.

        Args:
          version: a number in place of what is requested.
        """
        asked = self.requested if version is None else version
        request = codec.encode_predict_request(self.model, signature, inputs, asked)
        call = Call(wire.PREDICT, request, same_server)
        response = codec.decode_predict_response((yield from _ask_until_found(call)))
        outputs = codec.decode_outputs(response)
        spec = response.model_spec
        answered = spec.version.value if spec.HasField("version") else None
        return Answer(outputs, answered, codec.model_id(outputs))

    def signature(self, name: str) -> Steps[Signature]:
        """Return the inputs of a signature."""
        request = codec.encode_metadata_request(self.model, self.requested)
        response = yield Call(wire.GET_MODEL_METADATA, request)
        return signatures.decode_metadata_response(response, name)

    def status(self) -> Steps[list[VersionStatus]]:
        """Return the state of every version, newest first."""
        request = codec.encode_status_request(self.model, self.requested)
        response = yield Call(wire.GET_MODEL_STATUS, request)
        return codec.decode_status_response(response)


def _ask_until_found(call: Call) -> Steps[bytes]:
    """Make a call; if the model, version or label is not there, ask again for about half a second.

    Behind a proxy, the next server may have it. A server may also be about to load it.
    """
    for tries in range(_MAX_TRIES):
        try:
            return (yield call)
        except ModelNotFound as error:
            not_found = error
        try:
            # Callers in step would all reach the same servers again.
            yield Pause(random.uniform(0.5, 1) * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**tries))
        except DeadlineExceeded:
            break
        call = dataclasses.replace(call, same_server=False)
    raise not_found
