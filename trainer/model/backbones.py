"""The table of backbones: keras.applications network, input preprocessing and native image size."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Literal

import keras

from trainer.errors import ConfigError

PreprocessingMode = Literal["tf", "torch", "caffe", "none"]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One keras.applications network and how to feed it.

    Attributes:
      name: the value of `--backbone`, the constructor's name in lower case.
      constructor: the name in keras.applications.
      mode: what `preprocess_input` does to RGB levels from 0 to 255. "tf" scales them to [-1, 1]. "torch"
        scales them to [0, 1] and normalizes each channel. "caffe" swaps the channels to BGR and subtracts
        the mean. "none" changes nothing, because the network's first layers preprocess.
      native_size_px: image height and width of the training on ImageNet.
    Source: keras/src/applications/imagenet_utils.py and each network's own `preprocess_input`.
    """

    name: str
    constructor: str
    mode: PreprocessingMode
    native_size_px: int


_TABLE = {
    row.name: row
    for row in (
        Backbone("xception", "Xception", "tf", 299),
        Backbone("resnet50v2", "ResNet50V2", "tf", 224),
        Backbone("efficientnetv2b0", "EfficientNetV2B0", "none", 224),
        Backbone("mobilenetv2", "MobileNetV2", "tf", 224),
        Backbone("mobilenetv3small", "MobileNetV3Small", "none", 224),
        Backbone("densenet121", "DenseNet121", "torch", 224),
        Backbone("inceptionv3", "InceptionV3", "tf", 299),
        Backbone("vgg16", "VGG16", "caffe", 224),
        Backbone("convnexttiny", "ConvNeXtTiny", "none", 224),
    )
}


def backbone_names() -> list[str]:
    """Return the values that `--backbone` accepts."""
    return list(_TABLE)


def find_backbone(name: str) -> Backbone:
    """Return the backbone with this name, in upper or lower case.

    Raises:
      ConfigError: the name is unknown. The message suggests the nearest.
    """
    backbone = _TABLE.get(name.lower())
    if backbone is None:
        near = difflib.get_close_matches(name.lower(), _TABLE, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--backbone must be one of {', '.join(_TABLE)}. Received: {name!r}.{hint}")
    return backbone


def preprocess_input(backbone: Backbone, images: keras.KerasTensor) -> keras.KerasTensor:
    """Preprocess images inside a graph as the backbone's own Keras module does.

    Args:
      images: float32 (N, H, W, 3), RGB, levels from 0 to 255.
    Returns:
      float32 (N, H, W, 3) in the range of the backbone's mode.
    """
    if backbone.mode == "none":
        return images
    return keras.applications.imagenet_utils.preprocess_input(images, mode=backbone.mode)
