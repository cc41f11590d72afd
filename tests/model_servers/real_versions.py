"""SavedModels that classify the pictures of `pictures.py` exactly, exported as the trainer exports."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.model_servers.pictures import colour
from tests.model_servers.versions import MODEL
from trainer.export import ModelCard, digest_weights, save_signatures
from trainer.model.backbones import find_backbone


def save_version(
    directory: Path, labels: Sequence[str], *, backbone_name: str = "xception", size_px: int = 8
) -> Path:
    """Write a version whose network answers the label with the nearest colour.

    Args:
      labels: in the order of the outputs.
      backbone_name: decides the preprocessing.
    """
    backbone = find_backbone(backbone_name)
    levels = np.array([[[colour(label)]] for label in labels], np.float32)
    inputs = keras.Input((1, 1, 3))
    means = keras.Model(
        inputs, keras.applications.imagenet_utils.preprocess_input(inputs, mode=backbone.mode)
    )
    colours = np.asarray(means(levels), np.float64).reshape(-1, 3)
    # The nearest colour c of x has the largest 2cx - c².
    scale = 10 / np.square(colours[:, np.newaxis] - colours).sum(axis=2).max()
    network = keras.Sequential(
        [
            keras.Input((size_px, size_px, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(labels)),
        ]
    )
    network.set_weights([2 * colours.T * scale, -np.square(colours).sum(axis=1) * scale])
    card = ModelCard(
        name=MODEL,
        weights_digest=digest_weights(network),
        labels=labels,
        image_size_px=size_px,
        backbone=backbone,
        weights="none",
        data={},
        metrics={},
        config={},
    )
    save_signatures(directory, network, card, card.to_json(version=1))
    return directory


def save_foreign_version(directory: Path) -> Path:
    """Write a version as others export: two inputs of other dtypes, no card."""

    class Sums(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(  # type: ignore[untyped-decorator]  # TensorFlow has no types
            input_signature=[
                tf.TensorSpec((None, 4, 4, 3), tf.uint8, name="pixels"),
                tf.TensorSpec((None, 2), tf.float32, name="place"),
            ]
        )
        def serve(self, pixels: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
            levels = tf.reduce_sum(tf.cast(pixels, tf.float32), axis=(1, 2, 3))
            return {"sums": levels + tf.reduce_sum(place, axis=1)}

    module = Sums()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})
    return directory


def publish(version: Path, base_path: Path, number: int) -> None:
    """Add a copy of a version under a number. It appears in one step, as the trainer's versions do."""
    staging = base_path / f".staging-{number}"
    shutil.copytree(version, staging)
    staging.rename(base_path / str(number))
