"""Export a Keras network as a SavedModel with the three signatures of the contract with its clients."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data import decode_and_resize, decode_or_flag
from trainer.export.model_card import ModelCard
from trainer.model import logits_per_class, preprocess_input


def save_signatures(directory: Path, network: keras.Model, card: ModelCard, text: str) -> None:
    """Write a SavedModel with the signatures `serving_default`, `encoded_images` and `describe`.

    `serving_default` takes preprocessed images, `encoded_images` takes the bytes of image files. Both return
    logits and probabilities, float32 (N, K), and `model_id`, string (N,), which names the card to read the
    answer with. `encoded_images` also returns `decoded`, bool (N,): whether the image could be decoded; if
    not, its row is NaN. `describe` returns the model card.

    ExportArchive tracks the network's variables. A plain tf.Module around a Keras 3 model loads in Python,
    but TensorFlow Serving fails on it with "Could not find variable".

    Args:
      network: float32 (N, H, W, 3) preprocessed → float32 (N, K) logits, or (N, 1) if binary.
      card: what the version is.
      text: the card as JSON.
    """
    image_size_px, resize_filter = card.image_size_px, card.resize_filter
    image_spec = tf.TensorSpec((None, image_size_px, image_size_px, 3), tf.float32, name="images")

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.cast(logits_per_class(network(images, training=False)), tf.float32)
        # One value for each row: with batching, TensorFlow Serving splits all outputs among the callers.
        model_id = tf.fill(tf.shape(logits)[:1], card.model_id)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits), "model_id": model_id}

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # TensorFlow Serving does not compare a request's shape with the signature's. Without this check it
        # would accept another height or width, and another rank would crash it ("Check failed: index >= 0").
        return classify(tf.ensure_shape(images, image_spec.shape))

    def encoded_images(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        levels, decoded = _decode_each(tf.ensure_shape(encoded, (None,)), image_size_px, resize_filter)
        outputs = classify(preprocess_input(card.backbone, levels))
        for name in ("logits", "probabilities"):
            outputs[name] = tf.where(decoded[:, tf.newaxis], outputs[name], tf.constant(float("nan")))
        return {**outputs, "decoded": decoded}

    def describe(query: tf.Tensor) -> dict[str, tf.Tensor]:
        # With batching, TensorFlow Serving requires an input, and outputs of the same length.
        return {"card": tf.fill(tf.shape(query), text)}

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
