"""Encode requests and decode responses. Nothing here does I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from serving_client import errors, signatures, tensors, wire
from serving_client.model_card import ModelCard
from serving_client.preprocessing import InputSpec

_Message = TypeVar("_Message", bound=Message)


@dataclasses.dataclass(frozen=True)
class Score:
    """One label and its probability, from 0 to 1."""

    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
      scores: the top_k labels, most probable first.
      version: the model version that answered.
    """

    scores: tuple[Score, ...]
    version: int

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.scores[0].label

    @property
    def probability(self) -> float:
        """Probability of the most probable label, from 0 to 1."""
        return self.scores[0].probability


class Outputs(Mapping[str, npt.NDArray[Any]]):
    """A model's outputs by name; strings are bytes in arrays of dtype object.

    Attributes:
      version: the model version that answered; None if the server does not say.
      card: its card; None for a model that `python -m trainer` did not export.
    """

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]], version: int | None, card: ModelCard | None
    ) -> None:
        self._arrays = arrays
        self.version = version
        self.card = card

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in self.items())
        return f"Outputs({shapes}; version {self.version})"


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of one model version on the server.

    Attributes:
      state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
      error: why the version failed to load; empty if nothing failed.
    """

    version: int
    state: str
    error: str


def encode_predict_request(
    model: str,
    signature: str,
    inputs: Mapping[str, npt.NDArray[Any] | Sequence[bytes]],
    version: int | str | None = None,
) -> bytes:
    """Encode a PredictRequest.

    Args:
      inputs: a numeric array, or a sequence of bytes for a string input (N,), per input name.
      version: a version number, or a label that the server assigns to a version; None asks the newest.
    Raises:
      InvalidRequest: the client does not send arrays of this dtype.
    """
    request = wire.PredictRequest(model_spec=_model_spec(model, version))
    request.model_spec.signature_name = signature
    parts: list[bytes | memoryview] = [request.SerializeToString()]
    for name, value in inputs.items():
        parts += tensors.encode_input(name, value)
    return b"".join(parts)


def encode_status_request(model: str, version: int | str | None) -> bytes:
    """Encode a GetModelStatusRequest; version None asks for all versions."""
    return wire.GetModelStatusRequest(model_spec=_model_spec(model, version)).SerializeToString()


def encode_metadata_request(model: str, version: int | str | None) -> bytes:
    """Encode a GetModelMetadataRequest for the model's signatures."""
    return wire.GetModelMetadataRequest(
        model_spec=_model_spec(model, version), metadata_field=[signatures.METADATA_FIELD]
    ).SerializeToString()


def _model_spec(model: str, version: int | str | None) -> wire.ModelSpec:
    spec = wire.ModelSpec(name=model)
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version
    return spec


def check_images(images: npt.NDArray[Any], spec: InputSpec) -> None:
    """Raise InvalidRequest unless the array is float32 (N, height_px, width_px, 3) with N at least 1.

    TensorFlow Serving does not check this. A wrong size passes silently through convolutions and pooling, a
    wrong dtype or shape fails every request in the same batch, and a request with 0 rows hangs.
    """
    if not isinstance(images, np.ndarray):
        raise errors.InvalidRequest(f"images must be a numpy array. Received: {type(images).__name__}.")
    if images.dtype != np.float32 or images.shape[1:] != spec.shape or images.ndim != 4 or not len(images):
        expected = ", ".join(map(str, spec.shape))
        raise errors.InvalidRequest(
            f"The model takes float32 (N, {expected}) with N at least 1. Received: {images.dtype} "
            f"{images.shape}. Use classify() for images of any size."
        )


def decode_status_response(response: bytes) -> list[VersionStatus]:
    """Decode a GetModelStatusResponse; the newest version comes first.

    Raises:
      ServerError: the bytes are not such a message.
    """
    decoded = _decode(wire.GetModelStatusResponse, response)
    statuses = [
        VersionStatus(one.version, wire.ModelVersionStatus.State.Name(one.state), one.status.error_message)
        for one in decoded.model_version_status
    ]
    return sorted(statuses, key=lambda status: -status.version)


def decode_predict_response(response: bytes) -> wire.PredictResponse:
    """Decode a PredictResponse.

    Raises:
      ServerError: the bytes are not such a message.
    """
    return _decode(wire.PredictResponse, response)


def _decode(kind: type[_Message], response: bytes) -> _Message:
    try:
        return kind.FromString(response)
    except DecodeError as error:
        raise errors.ServerError(
            f"The answer must be a {kind.__name__}. Received: {len(response)} bytes that cannot be decoded. "
            "Check that the address is TensorFlow Serving's gRPC port."
        ) from error


def decode_outputs(response: wire.PredictResponse) -> dict[str, npt.NDArray[Any]]:
    """Return the response's tensors by name; strings become bytes in arrays of dtype object.

    Raises:
      ServerError: a tensor has an unknown dtype, or its values do not fit its shape.
    """
    return {name: tensors.decode_tensor(name, tensor) for name, tensor in response.outputs.items()}


def model_id(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the identity that an answer carries; empty for versions that were exported before 0.2.0.

    Raises:
      ServerError: the rows name different models.
    """
    names = {bytes(name) for name in outputs["model_id"].ravel()} if "model_id" in outputs else {b""}
    if len(names) != 1:
        raise errors.ServerError(
            f"All rows of an answer must name the same model. Received: {len(names)} different model_ids. "
            "See the server's log."
        )
    return names.pop().decode(errors="replace")


def top_predictions(
    outputs: Mapping[str, npt.NDArray[Any]],
    card: ModelCard,
    top_k: int,
    rows: int,
    *,
    nan_is_undecodable: bool,
) -> list[Prediction | errors.ImageError]:
    """Pick the most probable labels of each row.

    Args:
      outputs: "probabilities", float32 (N, K), K labels in the card's order; optionally "decoded", bool (N,):
        false where the model could not decode the image.
      rows: N, the number of images that were sent.
      nan_is_undecodable: whether NaN may stand for an image that the model could not decode, if there is no
        "decoded": versions exported before 0.2.0 answer so.
    Returns:
      A prediction for each row, or an ImageError where the model could not decode the image.
    Raises:
      ServerError: an output is missing or has another shape, or the probabilities are not numbers.
    """
    probabilities = outputs.get("probabilities", np.empty(0))
    if probabilities.shape != (rows, len(card.labels)):
        received = ", ".join(f"{name} {array.shape}" for name, array in sorted(outputs.items()))
        raise errors.ServerError(
            f"The answer must hold 'probabilities' of shape ({rows}, {len(card.labels)}): one row per image, "
            f"one column per label. Received: {received or 'no outputs'}. Check that `python -m trainer` "
            "published this model."
        )
    is_number = np.isfinite(probabilities).all(axis=1)
    decoded = outputs.get("decoded", is_number if nan_is_undecodable else np.ones(rows, bool))
    if not is_number[decoded].all():
        raise errors.ServerError(
            f"Version {card.version} must answer numbers. Received: NaN for an image that it could read. Its "
            "weights have diverged: publish another version."
        )
    reason = "The model cannot decode the image. Save it as PNG."
    if "decoded" not in outputs:
        reason = "The model answers NaN: it cannot decode the image, or its weights have diverged. Try PNG."
    # A stable sort keeps equal probabilities in the order of the labels.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(tuple(Score(card.labels[k], float(row[k])) for k in best), card.version)
        if is_decoded
        else errors.ImageError(reason)
        for row, best, is_decoded in zip(probabilities, order, decoded, strict=True)
    ]
