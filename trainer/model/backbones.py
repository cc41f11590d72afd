"""The backbones: which keras.applications network, how its input is preprocessed, its native size."""

from __future__ import annotations

import dataclasses
import difflib
import re
import urllib.error
import warnings
from pathlib import Path
from typing import Literal

import keras

from trainer.errors import ConfigError, WeightsError

PreprocessingMode = Literal["tf", "torch", "caffe", "none"]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A row of the table.

    Attributes:
      name: what `--backbone` takes, the constructor's name in lower case.
      constructor: the name in keras.applications.
      mode: what `preprocess_input` does to RGB levels of 0 to 255: "tf" scales to [-1, 1], "torch"
        to [0, 1] and normalizes each channel, "caffe" swaps to BGR and subtracts the mean, "none"
        leaves them, because the network itself begins with that step.
      native_size_px: height and width that the ImageNet weights were trained at.
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
    """Return what `--backbone` takes."""
    return list(_TABLE)


def find_backbone(name: str) -> Backbone:
    """Return the row of that name, upper or lower case.

    Raises:
      ConfigError: there is none; names the nearest.
    """
    backbone = _TABLE.get(name.lower())
    if backbone is None:
        near = difflib.get_close_matches(name.lower(), _TABLE, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--backbone must be one of {', '.join(_TABLE)}. Received: {name!r}.{hint}")
    return backbone


def preprocess_input(backbone: Backbone, images: keras.KerasTensor) -> keras.KerasTensor:
    """Apply the backbone's own `preprocess_input` inside a graph.

    Args:
      images: float32 (N, H, W, 3), RGB, levels from 0 to 255.
    Returns:
      float32 (N, H, W, 3) in the range of the backbone's mode.
    """
    if backbone.mode == "none":
        return images
    return keras.applications.imagenet_utils.preprocess_input(images, mode=backbone.mode)


def build_features(backbone: Backbone, image_size_px: int, weights: str) -> keras.Model:
    """Build the frozen network without its top: (N, H, W, 3) preprocessed → (N, features) pooled.

    Args:
      weights: "imagenet", "none" or the path of a .weights.h5 file.
    Raises:
      ConfigError: the backbone refuses the image size.
      WeightsError: the weights are not to be had or belong to another network.
    """
    features = _construct(
        backbone,
        weights,
        include_top=False,
        pooling="avg",
        input_shape=(image_size_px, image_size_px, 3),
    )
    features.trainable = False
    return features


def layer_input(features: keras.Model, layer: str) -> keras.KerasTensor:
    """Return the tensor before a layer, through which all that follows gets what it knows of the image.

    Args:
      layer: a layer's name, or that of a block ("block13"), whose first layer is meant.
    Raises:
      ConfigError: there is no such layer, or a shortcut leads around it.
    """
    in_block = re.compile(rf"{re.escape(layer)}(?!\d)")
    names = [one.name for one in features.layers[1:]]
    found = [name for name in names if name == layer] or [name for name in names if in_block.match(name)]
    if not found:
        near = difflib.get_close_matches(layer, {*names, *(name.split("_")[0] for name in names)}, n=3)
        hint = (
            f" Did you mean {' or '.join(near)}?" if near else f" Its last layers: {', '.join(names[-8:])}."
        )
        raise ConfigError(f"--fine-tune-from: {features.name} has no layer {layer!r}.{hint}")
    if (tensor := _only_way_to(features, found[0])) is not None:
        return tensor
    before = names[: names.index(found[0])]
    possible = next(name for name in reversed(before) if _only_way_to(features, name) is not None)
    raise ConfigError(
        f"--fine-tune-from {layer}: a shortcut leads around {found[0]}, so what comes before it cannot be "
        f"stored as one tensor. The nearest layer before it that can be is {possible}."
    )


def _only_way_to(features: keras.Model, layer: str) -> keras.KerasTensor | None:
    tensor = features.get_layer(layer).input
    if isinstance(tensor, list):
        return None
    try:
        keras.Model(tensor, features.output)
    except ValueError:  # "Output … is not connected to `inputs`"
        return None
    return tensor


def build_imagenet_classifier(backbone: Backbone, weights: str) -> keras.Model:
    """Build the whole ImageNet network: (N, H, W, 3) preprocessed → float32 (N, 1000) logits.

    Args:
      weights: "imagenet", "none" or the path of a .weights.h5 file of the network with its top.
    Raises:
      WeightsError: the weights are not to be had or belong to another network.
    """
    size = backbone.native_size_px
    return _construct(
        backbone,
        weights,
        include_top=True,
        classifier_activation=None,
        input_shape=(size, size, 3),
    )


def _construct(backbone: Backbone, weights: str, **arguments: object) -> keras.Model:
    constructor = getattr(keras.applications, backbone.constructor)
    source = "imagenet" if weights == "imagenet" else None
    weights_file = None if weights in ("imagenet", "none") else Path(weights)
    if weights_file is not None:
        check_weights_file(weights_file)
    try:
        network = constructor(weights=source, **arguments)
    except ValueError as error:
        if "Input size must be" not in str(error):
            raise
        size_px = arguments["input_shape"][0]  # type: ignore[index]  # a mapping of objects
        raise ConfigError(
            f"--image-size is refused by {backbone.name}. Received: {size_px}. "
            f"Keras says: {_one_line(error)} Its native size is {backbone.native_size_px}."
        ) from error
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(_no_download(backbone, error)) from error
    except Exception as error:
        # keras.utils.get_file turns every failed download into a bare Exception.
        if "URL fetch failure" not in str(error):
            raise
        raise WeightsError(_no_download(backbone, error)) from error
    if weights_file is not None:
        _load(network, weights_file, backbone)
    return network


def _no_download(backbone: Backbone, error: Exception) -> str:
    return (
        f"--weights imagenet: Keras could not download the weights of {backbone.name} "
        f"({_one_line(error)}). Give a file of them with --weights FILE.weights.h5, or try things "
        "out with random ones by --weights none."
    )


def check_weights_file(path: Path) -> None:
    """Raise WeightsError unless there is such a file, named as Keras wants it."""
    if not path.name.endswith(".weights.h5"):
        raise WeightsError(
            f"--weights must be imagenet, none or a file whose name ends in .weights.h5. "
            f"Received: {str(path)!r}."
        )
    if not path.is_file():
        raise WeightsError(
            f"--weights: there is no such file: {path}. Give the path of a .weights.h5 file, "
            "imagenet or none."
        )


def _load(network: keras.Model, path: Path, backbone: Backbone) -> None:
    try:
        with warnings.catch_warnings():
            # One for each of a hundred layers; what could not be loaded is in the error that follows.
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
            network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        top = "with" if network.output_shape == (None, 1000) else "without"
        raise WeightsError(
            f"--weights {path} does not hold the weights of {backbone.name} {top} its top "
            f"({_one_line(error)}). Give the file that was saved from this backbone, or another "
            "--backbone."
        ) from error


def _one_line(error: Exception) -> str:
    """Keras explains at length; the first sentence says what happened."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"
