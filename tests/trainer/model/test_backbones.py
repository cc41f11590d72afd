import keras
import numpy as np
import pytest

from trainer.errors import ConfigError
from trainer.model.backbones import backbone_names, find_backbone, preprocess_input

REQUIRED = {
    "xception",
    "resnet50v2",
    "efficientnetv2b0",
    "mobilenetv2",
    "mobilenetv3small",
    "densenet121",
    "inceptionv3",
    "vgg16",
    "convnexttiny",
}

# The Keras module of each network, with the `preprocess_input` that belongs to it.
MODULES = {
    "xception": "xception",
    "resnet50v2": "resnet_v2",
    "efficientnetv2b0": "efficientnet_v2",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3small": "mobilenet_v3",
    "densenet121": "densenet",
    "inceptionv3": "inception_v3",
    "vgg16": "vgg16",
    "convnexttiny": "convnext",
}


def test_the_table_holds_the_documented_backbones() -> None:
    assert set(backbone_names()) == set(MODULES) == REQUIRED
    assert find_backbone("Xception") == find_backbone("xception")


@pytest.mark.parametrize("name", backbone_names())
def test_preprocessing_equals_the_keras_modules(name: str) -> None:
    levels = np.random.default_rng(0).uniform(0, 255, (2, 5, 4, 3)).astype(np.float32)
    own = getattr(keras.applications, MODULES[name]).preprocess_input
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(preprocess_input(find_backbone(name), levels.copy())),
        own(levels.copy()),
        rtol=0,
        atol=1e-6,
    )


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'resnet50'.*resnet50v2"):
        find_backbone("resnet50")
