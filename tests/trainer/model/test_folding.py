from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from trainer.model.backbones import find_backbone
from trainer.model.folding import fold_batch_norm
from trainer.model.networks import build_features, layer_input


def with_any_statistics(network: keras.Model) -> keras.Model:
    """Replace Keras' initial mean 0 and variance 1, with which a wrong folding would go unnoticed."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return network


def normalizations(network: keras.Model) -> int:
    return sum(isinstance(layer, layers.BatchNormalization) for layer in network.layers)


def assert_same_answers(network: keras.Model, folded: keras.Model) -> None:
    images = np.random.default_rng(1).normal(size=(3, *network.input_shape[1:])).astype(np.float32)
    for before, after in zip(
        keras.tree.flatten(network(images, training=False)),
        keras.tree.flatten(folded(images, training=False)),
        strict=True,
    ):
        scale = np.abs(before).max()
        assert scale > 0
        np.testing.assert_allclose(after / scale, before / scale, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda **kwargs: layers.Conv2D(5, 3, **kwargs),
        lambda **kwargs: layers.SeparableConv2D(5, 3, depth_multiplier=2, **kwargs),
        lambda **kwargs: layers.DepthwiseConv2D(3, depth_multiplier=2, **kwargs),
    ],
)
def test_a_folded_convolution_computes_what_both_layers_did(
    convolution: Callable[..., keras.Layer], use_bias: bool, affine: bool
) -> None:
    inputs = keras.Input((8, 8, 3))
    normalized = layers.BatchNormalization(scale=affine, center=affine)(
        convolution(use_bias=use_bias)(inputs)
    )
    network = with_any_statistics(keras.Model(inputs, layers.ReLU()(normalized)))
    folded = fold_batch_norm(network)
    assert normalizations(folded) == 0
    assert_same_answers(network, folded)


def test_a_convolution_with_another_reader_is_not_folded() -> None:
    inputs = keras.Input((8, 8, 3))
    branching = layers.Conv2D(3, 3, padding="same")(inputs)
    normalized = layers.BatchNormalization()(branching)
    added = layers.Add()([branching, normalized])
    an_output = layers.Conv2D(4, 3)(added)
    activated = layers.Conv2D(4, 3, activation="relu")(layers.BatchNormalization()(an_output))
    network = keras.Model(inputs, [an_output, layers.BatchNormalization()(activated)])
    assert fold_batch_norm(with_any_statistics(network)) is network


def test_a_real_backbone_keeps_its_outputs_and_inner_activations() -> None:
    backbone = build_features(find_backbone("mobilenetv2"), 32, "none")
    inside = layer_input(backbone, "block_13_expand")
    network = with_any_statistics(keras.Model(backbone.input, [inside, backbone.output]))
    folded = fold_batch_norm(network)
    assert (normalizations(network), normalizations(folded)) == (52, 0)
    assert_same_answers(network, folded)
