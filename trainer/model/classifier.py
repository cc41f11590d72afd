"""The network: a frozen backbone that turns images into features, and a head that is trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from trainer.config import ClassMode, Precision
from trainer.model.backbones import Backbone
from trainer.model.networks import build_features, layer_input

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a classifier is built from.

    Attributes:
      image_size_px: height and width of the images.
      weights: of the backbone: "imagenet", "none" or the path of a .weights.h5 file.
      precision: dtype policy of the backbone; variables and head are float32.
      class_count: K, the number of labels.
      class_mode: "binary" has one logit for its two classes.
      hidden_units: of a Dense layer before the logits; 0: none.
      dropout: share of features dropped before the logits.
      fine_tune_from: the backbone's layer from which it is trained too; None: none of it is.
      seed: of initial weights and dropout.
    """

    backbone: Backbone
    image_size_px: int
    weights: str
    precision: Precision
    class_count: int
    class_mode: ClassMode
    hidden_units: int
    dropout: float
    fine_tune_from: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class Classifier:
    """One network and its parts, which share its variables.

    Attributes:
      frozen: runs once per image. Maps float32 (N, H, W, 3), preprocessed, to pooled features float32 (N, F);
        with fine-tuning to [activations before the first tuned layer, pooled features].
      head: is trained. Maps float32 (N, F) to logits float32 (N, K), or (N, 1) for class mode "binary".
      tuned: with fine-tuning, maps activations to logits: the backbone's last layers, and the head.
      whole: maps preprocessed images to logits.
    """

    frozen: keras.Model
    head: keras.Model
    tuned: keras.Model | None
    whole: keras.Model


def build_classifier(architecture: Architecture) -> Classifier:
    """Build the network in the current strategy scope.

    Source: https://keras.io/guides/transfer_learning, "The typical transfer-learning workflow".
    Raises:
      ConfigError: the backbone refuses the image size, or cannot be split where fine-tuning begins.
      WeightsError: the weights are not available, or belong to another network.
    """
    features = build_backbone(architecture)
    head = build_head(architecture, features.output_shape[-1])
    return join_head(features, head, architecture.fine_tune_from)


def build_backbone(architecture: Architecture) -> keras.Model:
    """Build what comes before the head, in the current scope: float32 (N, H, W, 3) → (N, F)."""
    with _dtype_policy(architecture.precision):
        return build_features(architecture.backbone, architecture.image_size_px, architecture.weights)


def build_head(architecture: Architecture, feature_count: int, name: str = "head") -> keras.Model:
    """Build what is trained, in the current scope: float32 (N, feature_count) → logits (N, K or 1)."""
    features = keras.Input((feature_count,), name="features")
    outputs = features
    if architecture.hidden_units:
        outputs = keras.layers.Dense(architecture.hidden_units, activation="relu", name="hidden")(outputs)
    if architecture.dropout:
        outputs = keras.layers.Dropout(architecture.dropout, seed=architecture.seed, name="dropout")(outputs)
    units = 1 if architecture.class_mode == "binary" else architecture.class_count
    return keras.Model(features, keras.layers.Dense(units, name="logits")(outputs), name=name)


def join_head(features: keras.Model, head: keras.Model, fine_tune_from: str | None) -> Classifier:
    """Put a head on a backbone."""
    images = keras.Input(features.input_shape[1:], name="images")
    # training=False keeps BatchNormalization on its stored statistics, whatever the caller trains.
    whole = keras.Model(images, head(features(images, training=False)), name="classifier")
    if fine_tune_from is None:
        return Classifier(features, head, None, whole)
    activations = layer_input(features, fine_tune_from)
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


def copy_for_serving(network: keras.Model, architecture: Architecture) -> keras.Model:
    """Return a copy of the whole network to export, with plain variables instead of the strategy's.

    It computes in float32, whatever it was trained in, because it may be served on a CPU.
    """
    plain = dataclasses.replace(architecture, weights="none", precision="float32", fine_tune_from=None)
    copy = build_classifier(plain).whole
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
    """Return one logit per class: (N, K) unchanged; a binary (N, 1) column z becomes (N, 2) [0, z].

    softmax([0, z]) is [1 - sigmoid(z), sigmoid(z)], so every exported model has the same kind of output.
    """
    if logits.shape[-1] == 1:
        return tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits


def top_class(logits: tf.Tensor) -> tf.Tensor:
    """Return the index of the highest class, int32 (N,); for one binary logit 1 where it is above 0."""
    if logits.shape[-1] == 1:
        return tf.cast(logits[:, 0] > 0, tf.int32)
    return tf.argmax(logits, axis=-1, output_type=tf.int32)
