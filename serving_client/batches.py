"""Prepare a batch of images for a version: as preprocessed tensors, or as the bytes of the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from serving_client import preprocessing
from serving_client.calls import Answer
from serving_client.errors import ImageError
from serving_client.model_card import ModelCard
from serving_client.predictions import Prediction, top_predictions
from serving_client.preprocessing import ImageInput, InputSpec

Via = Literal["images", "encoded"]
"""How images are sent: preprocessed here, or as files that the exported graph preprocesses."""

Result = Prediction | ImageError
"""What a stream yields for one image."""

# The signature for each way to send images, and the name of its input.
_SIGNATURES: dict[Via, tuple[str, str]] = {
    "images": ("serving_default", "images"),
    "encoded": ("encoded_images", "encoded"),
}
# One request holds at most this many bytes: 8 float32 images of 299 px.
_MAX_REQUEST_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images, prepared for one version's input.

    Attributes:
      images: as the caller gave them.
      invalid: the reason for each image that cannot be decoded, by its index.
      inputs: of the signature: one row per valid image.
    """

    images: Sequence[ImageInput]
    via: Via
    spec: InputSpec
    invalid: dict[int, ImageError]
    inputs: npt.NDArray[np.float32] | list[bytes]

    @classmethod
    def prepare(cls, images: Sequence[ImageInput], via: Via, spec: InputSpec) -> Batch:
        """Decode images; with via="images" also resize and scale them."""
        invalid: dict[int, ImageError] = {}
        encoded: list[bytes] = []
        rows = np.empty((0 if via == "encoded" else len(images), *spec.shape), np.float32)
        for index, image in enumerate(images):
            try:
                if via == "encoded":
                    encoded.append(preprocessing.encode(image, spec))
                else:
                    rows[index - len(invalid)] = preprocessing.preprocess(image, spec)
            except ImageError as error:
                invalid[index] = error
        inputs = encoded if via == "encoded" else rows[: len(images) - len(invalid)]
        return cls(images, via, spec, invalid, inputs)

    @property
    def signature(self) -> str:
        """The signature to call."""
        return _SIGNATURES[self.via][0]

    @property
    def named_inputs(self) -> dict[str, Any]:
        """The inputs by the signature's names."""
        return {_SIGNATURES[self.via][1]: self.inputs}

    def fits(self, spec: InputSpec) -> bool:
        """Whether a version with this input can be asked. The bytes of files suit every version.

        Pixels that become a file here are turned or not, as the version expects.
        """
        if self.via == "encoded":
            return self.spec.exif_orientation == spec.exif_orientation
        return self.spec == spec

    def results(self, answer: Answer, card: ModelCard, top_k: int) -> list[Result]:
        """Return a result per image: the answer's row for it, or why it is invalid.

        Raises:
          ServerError: the answer does not have one row of probabilities for each valid image.
        """
        predictions = iter(
            top_predictions(
                answer.outputs, card, top_k, len(self.inputs), nan_is_undecodable=self.via == "encoded"
            )
        )
        return [
            self.invalid.get(index) or _with_name(image, next(predictions))
            for index, image in enumerate(self.images)
        ]


def largest_batch(card: ModelCard, via: Via) -> int:
    """Return how many images one request holds: a power of 2, like the server's batch sizes."""
    fitting = card.largest_batch
    if via == "images":
        height, width, channels = card.input.shape
        fitting = min(fitting, _MAX_REQUEST_BYTES // (height * width * channels * 4))
    return 1 << (max(fitting, 1).bit_length() - 1)


def _with_name(image: ImageInput, result: Result) -> Result:
    if isinstance(result, ImageError):
        return ImageError(f"{preprocessing.display_name(image)}: {result}")
    return result
