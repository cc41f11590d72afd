"""What a version answers to: the three signatures of the export contract, around one Keras network."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data import decode_and_resize, decode_or_flag
from trainer.model import Backbone, logits_per_class, preprocess_input


def save_signatures(
    directory: Path,
    network: keras.Model,
    backbone: Backbone,
    image_size_px: int,
    card: str,
    resize_filter: ResizeFilter = "bilinear",
) -> None:
    """Write a SavedModel with the signatures `serving_default`, `encoded_images` and `describe`.

    An image of `encoded_images` that cannot be decoded is answered with NaN among others that can be; a
    call in which none can be is refused.

    ExportArchive tracks the network's variables; a plain tf.Module around a Keras 3 model loads in
    Python and fails in TensorFlow Serving with "Could not find variable".

    Args:
      network: float32 (N, H, W, 3) preprocessed → float32 (N, K) logits, or (N, 1) if binary.
      card: the model card as JSON.
      resize_filter: of `encoded_images`.
    """

    image_spec = tf.TensorSpec((None, image_size_px, image_size_px, 3), tf.float32, name="images")

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.cast(logits_per_class(network(images, training=False)), tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # TensorFlow Serving does not compare a request with the signature's shape. Without this another
        # height or width passes silently, and another rank ends the server ("Check failed: index >= 0").
        return answer(tf.ensure_shape(images, image_spec.shape))

    def encoded_images(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded = tf.ensure_shape(encoded, (None,))
        level_spec = tf.TensorSpec((image_size_px, image_size_px, 3), tf.float32)
        levels, decodable = tf.map_fn(
            lambda one: decode_or_flag(one, image_size_px, resize_filter),
            encoded,
            fn_output_signature=(level_spec, tf.TensorSpec((), tf.bool)),
        )
        # Several callers' images share a batch, and one that is bad must not fail them all. Where none
        # can be decoded there is nobody to spare, and the decoder says what is wrong.
        levels = tf.cond(
            tf.reduce_any(decodable),
            lambda: levels,
            lambda: tf.map_fn(
                lambda one: decode_and_resize(one, image_size_px, resize_filter),
                encoded,
                fn_output_signature=level_spec,
            ),
        )
        answers = answer(preprocess_input(backbone, levels))
        not_a_number = tf.constant(float("nan"))
        return {name: tf.where(decodable[:, tf.newaxis], row, not_a_number) for name, row in answers.items()}

    def describe(query: tf.Tensor) -> dict[str, tf.Tensor]:
        # One card a row: with batching, TensorFlow Serving wants an input, and outputs as long as it.
        return {"card": tf.fill(tf.shape(query), card)}

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", serving_default, [image_spec])
    archive.add_endpoint(
        "encoded_images", encoded_images, [tf.TensorSpec((None,), tf.string, name="encoded")]
    )
    archive.add_endpoint("describe", describe, [tf.TensorSpec((None,), tf.string, name="query")])
    archive.write_out(str(directory), verbose=False)
