"""The proof before publishing: what lies on disk answers as the network that was trained.

Kept apart from the trainer's own code on purpose: the client's preprocessing is the client's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from serving_client import preprocessing
from trainer.data import ImageExamples
from trainer.errors import ExportMismatchError
from trainer.export.published import PublishedVersion
from trainer.model import logits_per_class

MAX_DIFFERENCE = 1e-4
"""Largest difference of a probability. At every precision: what is exported computes in float32, and both
sides do so on the CPU, because a GPU's kernels round one way today and another tomorrow."""

_IMAGES = 64
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """An image whose answer is not the trained network's.

    Attributes:
      path: of the image.
      signature: that was asked.
      probability: largest difference of a probability.
      expected: label that the trained network gives.
      answered: label that the version gives.
    """

    path: str
    signature: str
    probability: float
    expected: str
    answered: str


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """What was compared.

    Attributes:
      images: how many.
      largest: difference of a probability, by signature.
      differences: those that are too large, or flip the label.
    """

    images: int
    largest: Mapping[str, float]
    differences: Sequence[Mismatch]

    def in_words(self) -> str:
        """Return the line of the report."""
        largest = ", ".join(f"{signature} {value:.1e}" for signature, value in self.largest.items())
        return f"{self.images} images, both ways; largest difference of a probability: {largest}"

    def complaints(self) -> list[str]:
        """Return a sentence for each image that differs."""
        return [
            f"Not published: {one.path} through {one.signature} differs by {one.probability:.2g} of a "
            f"probability ({one.expected}, answered {one.answered})."
            for one in self.differences
        ]

    def require(self) -> None:
        """Raise ExportMismatchError if any image differs."""
        if not self.differences:
            return
        first = self.differences[0]
        raise ExportMismatchError(
            "Not published: the exported version must give the trained network's labels and its "
            f"probabilities, within {MAX_DIFFERENCE:g}. Received: {len(self.differences)} of "
            f"{2 * self.images} answers differ, such as {first.path} through "
            f"{first.signature}, by {first.probability:.2g} ({first.expected} became {first.answered}). "
            "The run's report lists them all."
        )


def sample_examples(examples: ImageExamples) -> ImageExamples:
    """Return up to 64 images, spread evenly over the set and so over its classes."""
    count = len(examples.images)
    chosen = np.unique(np.linspace(0, count - 1, min(_IMAGES, count)).astype(int))
    return dataclasses.replace(examples, images=examples.images.subset(chosen.tolist()))


def client_inputs(version: PublishedVersion, paths: Sequence[Path]) -> np.ndarray:
    """Return images as the client preprocesses them, by the version's own card: float32 (N, H, W, 3)."""
    spec = version.card["input"]
    wanted = preprocessing.InputSpec(
        spec["height_px"], spec["width_px"], spec["preprocessing"], spec["resize_filter"]
    )
    return np.stack([preprocessing.preprocess(path, wanted) for path in paths])


def check_export(version: PublishedVersion, network: keras.Model, examples: ImageExamples) -> ExportCheck:
    """Ask the version both ways, and the network that it was made from.

    Args:
      version: loaded back from disk.
      network: float32 (N, H, W, 3) → logits (N, K) or (N, 1), in memory.
      examples: the images, as training reads them.
    """
    paths = examples.images.paths
    with tf.device("/CPU:0"):
        expected = _trained(network, examples)
        answers = {
            "serving_default": version.answer_inputs(client_inputs(version, paths)),
            "encoded_images": version.answer(paths)[1],
        }
    differences = []
    for signature, probabilities in answers.items():
        largest = np.abs(probabilities - expected).max(axis=1)
        labels = np.array(version.labels)
        tops, expected_tops = labels[probabilities.argmax(axis=1)], labels[expected.argmax(axis=1)]
        for row in np.flatnonzero(~(largest <= MAX_DIFFERENCE) | (tops != expected_tops)):
            differences.append(
                Mismatch(
                    str(paths[row]), signature, float(largest[row]), str(expected_tops[row]), str(tops[row])
                )
            )
    largest_by_signature = {
        signature: float(np.abs(probabilities - expected).max())
        for signature, probabilities in answers.items()
    }
    return ExportCheck(len(paths), largest_by_signature, differences)


def _trained(network: keras.Model, examples: ImageExamples) -> np.ndarray:
    batches = examples.batches(np.arange(len(examples.images)), _BATCH_SIZE)
    logits = [logits_per_class(network(images, training=False)) for images, _ in batches]
    return tf.nn.softmax(tf.concat(logits, axis=0)).numpy()  # type: ignore[no-any-return]  # TensorFlow has no types
