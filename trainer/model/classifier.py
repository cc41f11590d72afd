"""The network: a frozen backbone that turns images into features, and a head that is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from trainer.config import ClassMode, TrainConfig
from trainer.model.backbones import Backbone, build_features, layer_input

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """One network in its parts, which share their variables with the whole.

    Attributes:
      frozen: what runs once per image: float32 (N, H, W, 3) preprocessed → float32 (N, F), pooled; with
        fine-tuning [activations before the first tuned layer, pooled].
      head: trained; float32 (N, F) → float32 (N, K) logits; (N, 1) for class mode "binary".
      tuned: with fine-tuning, activations → logits: what of the backbone is tuned, and the head.
      whole: head after the backbone.
    """

    frozen: keras.Model
    head: keras.Model
    tuned: keras.Model | None
    whole: keras.Model


def build_classifier(
    config: TrainConfig, backbone: Backbone, image_size_px: int, class_count: int
) -> Classifier:
    """Build the classifier in the current strategy scope, computing in `config.precision`.

    Source: https://keras.io/guides/transfer_learning, "The typical transfer-learning workflow".
    Raises:
      ConfigError: the backbone refuses the image size, or cannot be split where fine-tuning begins.
      WeightsError: the weights are not to be had or belong to another network.
    """
    features = build_backbone(config, backbone, image_size_px)
    return join_head(config, features, build_head(config, features.output_shape[-1], class_count))


def build_backbone(config: TrainConfig, backbone: Backbone, image_size_px: int) -> keras.Model:
    """Build what comes before the head, in the current scope: float32 (N, H, W, 3) → (N, F)."""
    with _dtype_policy(config.precision):
        return build_features(backbone, image_size_px, config.weights)


def join_head(config: TrainConfig, features: keras.Model, head: keras.Model) -> Classifier:
    """Put a head on a backbone."""
    images = keras.Input(features.input_shape[1:], name="images")
    # training=False keeps BatchNormalization on its stored statistics, whatever the caller trains.
    whole = keras.Model(images, head(features(images, training=False)), name="classifier")
    if config.fine_tune_from is None:
        return Classifier(features, head, None, whole)
    activations = layer_input(features, config.fine_tune_from)
    frozen = keras.Model(features.input, [activations, features.output], name="frozen")
    suffix = keras.Model(activations, features.output, name="suffix")
    for layer in suffix.layers:  # the model's own flag is True already, and setting it would do nothing
        layer.trainable = True
    tuned_input = keras.Input(activations.shape[1:], dtype=activations.dtype, name="activations")
    tuned = keras.Model(tuned_input, head(suffix(tuned_input, training=False)), name="tuned")
    return Classifier(frozen, head, tuned, whole)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_head(config: TrainConfig, feature_count: int, class_count: int, name: str = "head") -> keras.Model:
    """Build what is trained, in the current scope: float32 (N, feature_count) → logits (N, K or 1)."""
    features = keras.Input((feature_count,), name="features")
    hidden = features
    if config.hidden_units:
        hidden = keras.layers.Dense(config.hidden_units, activation="relu", name="hidden")(hidden)
    if config.dropout:
        hidden = keras.layers.Dropout(config.dropout, seed=config.seed, name="dropout")(hidden)
    units = 1 if config.class_mode == "binary" else class_count
    return keras.Model(features, keras.layers.Dense(units, name="logits")(hidden), name=name)


def copy_for_serving(
    network: keras.Model, config: TrainConfig, backbone: Backbone, image_size_px: int, class_count: int
) -> keras.Model:
    """Return a copy of the whole network to export: plain variables, free of the strategy's devices.

    It computes in float32, whatever it was trained in, because it may be served on a CPU.
    """
    plain = dataclasses.replace(config, weights="none", precision="float32", fine_tune_from=None)
    copy = build_classifier(plain, backbone, image_size_px, class_count).whole
    copy.set_weights(network.get_weights())
    return copy


def loss_function(class_mode: ClassMode, class_count: int) -> Loss:
    """Return the loss of each example: integer labels (N,), logits (N, K or 1) → float32 (N,)."""
    if class_mode == "categorical":
        categorical = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)
        return lambda labels, logits: categorical(tf.one_hot(labels, class_count), logits)
    if class_mode == "binary":
        binary = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)
        return lambda labels, logits: binary(labels[:, tf.newaxis], logits)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    return lambda labels, logits: sparse(labels, logits)


def logits_per_class(logits: tf.Tensor) -> tf.Tensor:
    """Return one logit per class: (N, K) as they are; a binary (N, 1) column z becomes (N, 2) [0, z].

    softmax([0, z]) is [1 - sigmoid(z), sigmoid(z)], so that every exported model answers alike.
    """
    if logits.shape[-1] == 1:
        return tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits


def top_class(logits: tf.Tensor) -> tf.Tensor:
    """Return the index of the highest class, int32 (N,); for one binary logit 1 where it is above 0."""
    if logits.shape[-1] == 1:
        return tf.cast(logits[:, 0] > 0, tf.int32)
    return tf.argmax(logits, axis=-1, output_type=tf.int32)
