"""The export check: before publishing, the exported version must predict what the trained network predicts.

It computes the probabilities of the same images in three ways, all in float32 on the CPU:

1. The trained network in memory, on images that the trainer's pipeline decodes and preprocesses.
2. The version's signature `serving_default`, on images that `serving_client` preprocesses.
3. The version's signature `encoded_images`, on the bytes of the files.

The second way uses the client's own code on purpose, so that it finds a difference between the client and
the trainer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from serving_client import preprocessing
from serving_client.errors import ImageError
from trainer.data import ImageExamples
from trainer.errors import DataError, ExportMismatchError
from trainer.export.published_version import PublishedVersion
from trainer.model import logits_per_class

MAX_DIFFERENCE = 1e-4
"""Largest accepted difference of a probability, for training in any precision.

Every export computes in float32. Both sides of the comparison run on the CPU, because a GPU's kernels may
round differently each time.
"""

_MAX_IMAGES = 64
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """An image for which a signature and the trained network disagree.

    Attributes:
      path: the image file.
      signature: "serving_default" or "encoded_images".
      difference: largest difference of a probability.
      trained_label: the label that the trained network predicts.
      exported_label: the label that the signature predicts.
    """

    path: str
    signature: str
    difference: float
    trained_label: str
    exported_label: str

    def __str__(self) -> str:
        return (
            f"{self.path} through {self.signature}: a probability differs by {self.difference:.2g} "
            f"(trained network: {self.trained_label}, export: {self.exported_label})"
        )


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """The result of an export check.

    Attributes:
      images: number of images that were compared, each through both signatures.
      largest_difference: of a probability, by signature.
      mismatches: images with another label, or a difference above MAX_DIFFERENCE.
    """

    images: int
    largest_difference: Mapping[str, float]
    mismatches: Sequence[Mismatch]

    def summary(self) -> str:
        """Return one sentence for the run's report."""
        largest = ", ".join(f"{name} {value:.1e}" for name, value in self.largest_difference.items())
        return f"{self.images} images through both signatures. Largest difference of a probability: {largest}"

    def warnings(self) -> list[str]:
        """Return one sentence for each mismatch."""
        return [f"Not published: {mismatch}." for mismatch in self.mismatches]

    def require_match(self) -> None:
        """Raise ExportMismatchError if there is any mismatch."""
        if not self.mismatches:
            return
        raise ExportMismatchError(
            "Not published: the exported version must predict the trained network's labels, and its "
            f"probabilities within {MAX_DIFFERENCE:g}. Received: {len(self.mismatches)} mismatches in "
            f"{2 * self.images} predictions, such as {self.mismatches[0]}. See all in the run's report."
        )


def sample_examples(examples: ImageExamples) -> ImageExamples:
    """Return up to 64 of the images, evenly spaced in the set, so that every class is represented."""
    count = len(examples.images)
    chosen = np.unique(np.linspace(0, count - 1, min(_MAX_IMAGES, count)).astype(int))
    return dataclasses.replace(examples, images=examples.images.subset(chosen.tolist()))


def preprocess_as_client(version: PublishedVersion, paths: Sequence[Path]) -> np.ndarray:
    """Preprocess images with `serving_client`, as the version's model card says: float32 (N, H, W, 3).

    Raises:
      DataError: an image cannot be read any more.
    """
    card = version.card["input"]
    spec = preprocessing.InputSpec(
        card["height_px"],
        card["width_px"],
        card["preprocessing"],
        card["resize_filter"],
        exif_orientation=card.get("exif_orientation", False),
    )
    try:
        return np.stack([preprocessing.preprocess(path, spec) for path in paths])
    except ImageError as error:  # its first read has succeeded, so it has changed since
        raise DataError(
            f"{error} The file has changed during the run. Restore it and start again."
        ) from error


def check_export(version: PublishedVersion, network: keras.Model, examples: ImageExamples) -> ExportCheck:
    """Compare a version's predictions with those of the network that it was exported from.

    Args:
      version: loaded from disk.
      network: float32 (N, H, W, 3) → logits (N, K) or (N, 1), in memory.
      examples: the images, as training reads them.
    """
    paths = examples.images.paths
    with tf.device("/CPU:0"):
        trained = _trained_probabilities(network, examples)
        exported = {
            "serving_default": version.predict_images(preprocess_as_client(version, paths)),
            "encoded_images": version.predict_files(paths)[1],
        }
    largest_difference, mismatches = {}, []
    for signature, probabilities in exported.items():
        differences = np.abs(probabilities - trained).max(axis=1)
        largest_difference[signature] = float(differences.max())
        trained_tops, exported_tops = trained.argmax(axis=1), probabilities.argmax(axis=1)
        # "Not within the limit" instead of "above it": NaN is a mismatch.
        is_mismatch = ~(differences <= MAX_DIFFERENCE) | (trained_tops != exported_tops)
        mismatches += [
            Mismatch(
                path=str(paths[row]),
                signature=signature,
                difference=float(differences[row]),
                trained_label=version.labels[trained_tops[row]],
                exported_label=version.labels[exported_tops[row]],
            )
            for row in np.flatnonzero(is_mismatch)
        ]
    return ExportCheck(len(paths), largest_difference, mismatches)


def _trained_probabilities(network: keras.Model, examples: ImageExamples) -> np.ndarray:
    """Return float32 (N, K)."""
    batches = examples.batches(np.arange(len(examples.images)), _BATCH_SIZE)
    logits = [logits_per_class(network(images, training=False)) for images, _ in batches]
    return tf.nn.softmax(tf.concat(logits, axis=0)).numpy()  # type: ignore[no-any-return]  # TensorFlow has no types
