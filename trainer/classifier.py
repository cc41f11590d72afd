"""The network: a frozen backbone that turns images into features, and a head that is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from trainer import backbones
from trainer.backbones import Backbone
from trainer.config import ClassMode, TrainConfig

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """One network in its two parts, which share their variables with the whole.

    Attributes:
      features: frozen; float32 (N, H, W, 3) preprocessed → float32 (N, F), pooled.
      head: trained; float32 (N, F) → float32 (N, K) logits; (N, 1) for class mode "binary".
      whole: head after features.
    """

    features: keras.Model
    head: keras.Model
    whole: keras.Model


def build(config: TrainConfig, backbone: Backbone, image_size_px: int, class_count: int) -> Classifier:
    """Build the classifier in the current strategy scope.

    Source: https://keras.io/guides/transfer_learning, "The typical transfer-learning workflow".
    Raises:
      ConfigError: the backbone refuses the image size.
      WeightsError: the weights are not to be had or belong to another network.
    """
    features = backbones.build_features(backbone, image_size_px, config.weights)
    head = _build_head(config, features.output_shape[-1], class_count)
    images = keras.Input((image_size_px, image_size_px, 3), name="images")
    # training=False keeps BatchNormalization on its stored statistics, whatever the caller trains.
    whole = keras.Model(images, head(features(images, training=False)), name="classifier")
    return Classifier(features, head, whole)


def _build_head(config: TrainConfig, feature_count: int, class_count: int) -> keras.Model:
    features = keras.Input((feature_count,), name="features")
    hidden = features
    if config.inner_size:
        hidden = keras.layers.Dense(config.inner_size, activation="relu", name="inner")(hidden)
    if config.dropout:
        hidden = keras.layers.Dropout(config.dropout, seed=config.seed, name="dropout")(hidden)
    units = 1 if config.class_mode == "binary" else class_count
    return keras.Model(features, keras.layers.Dense(units, name="logits")(hidden), name="head")


def on_one_device(network: keras.Model) -> keras.Model:
    """Return a copy with plain variables, free of the strategy's devices: what is exported."""
    copy = keras.models.clone_model(network)
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
