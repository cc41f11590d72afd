"""Export a Keras network as a SavedModel with the three signatures of the contract with its clients."""

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

    `serving_default` takes preprocessed images, `encoded_images` takes the bytes of image files. Both return
    logits and probabilities, float32 (N, K). `describe` returns the model card.

    ExportArchive tracks the network's variables. A plain tf.Module around a Keras 3 model loads in Python,
    but TensorFlow Serving fails on it with "Could not find variable".

    Args:
      network: float32 (N, H, W, 3) preprocessed → float32 (N, K) logits, or (N, 1) if binary.
      card: the model card as JSON.
      resize_filter: how `encoded_images` resizes.
    """
    image_spec = tf.TensorSpec((None, image_size_px, image_size_px, 3), tf.float32, name="images")

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.cast(logits_per_class(network(images, training=False)), tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # TensorFlow Serving does not compare a request's shape with the signature's. Without this check it
        # would accept another height or width, and another rank would crash it ("Check failed: index >= 0").
        return classify(tf.ensure_shape(images, image_spec.shape))

    def encoded_images(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        levels, decoded = _decode_each(tf.ensure_shape(encoded, (None,)), image_size_px, resize_filter)
        outputs = classify(preprocess_input(backbone, levels))
        not_a_number = tf.constant(float("nan"))
        return {
            name: tf.where(decoded[:, tf.newaxis], output, not_a_number) for name, output in outputs.items()
        }

    def describe(query: tf.Tensor) -> dict[str, tf.Tensor]:
        # With batching, TensorFlow Serving requires an input, and outputs of the same length.
        return {"card": tf.fill(tf.shape(query), card)}

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", serving_default, [image_spec])
    archive.add_endpoint(
        "encoded_images", encoded_images, [tf.TensorSpec((None,), tf.string, name="encoded")]
    )
    archive.add_endpoint("describe", describe, [tf.TensorSpec((None,), tf.string, name="query")])
    archive.write_out(str(directory), verbose=False)


def _decode_each(
    encoded: tf.Tensor, image_size_px: int, resize_filter: ResizeFilter
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode N images, so that an undecodable one does not fail the others.

    With batching, TensorFlow Serving merges the images of several callers into one call. If no image can be
    decoded, there is nobody to protect, and the call fails with the decoder's message.

    Args:
      encoded: string (N,).
    Returns:
      float32 (N, image_size_px, image_size_px, 3) levels from 0 to 255; bool (N,): whether it was decoded.
    """
    levels_spec = tf.TensorSpec((image_size_px, image_size_px, 3), tf.float32)
    levels, decoded = tf.map_fn(
        lambda image: decode_or_flag(image, image_size_px, resize_filter),
        encoded,
        fn_output_signature=(levels_spec, tf.TensorSpec((), tf.bool)),
    )
    levels = tf.cond(
        tf.reduce_any(decoded),
        lambda: levels,
        lambda: tf.map_fn(
            lambda image: decode_and_resize(image, image_size_px, resize_filter),
            encoded,
            fn_output_signature=levels_spec,
        ),
    )
    return levels, decoded
