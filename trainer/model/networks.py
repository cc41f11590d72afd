"""Build a backbone's Keras network and load its weights: from ImageNet, from a file, or random."""

from __future__ import annotations

import difflib
import re
import urllib.error
import warnings
from pathlib import Path

import keras

from trainer.errors import ConfigError, WeightsError
from trainer.model.backbones import Backbone


def build_features(backbone: Backbone, image_size_px: int, weights: str) -> keras.Model:
    """Build the frozen network without its classification layer: (N, H, W, 3) preprocessed → (N, F) pooled.

    Args:
      weights: "imagenet", "none" or the path of a .weights.h5 file.
    Raises:
      ConfigError: the backbone refuses the image size.
      WeightsError: the weights cannot be downloaded or read, or belong to another network.
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
    """Return the input tensor of a layer. The rest of the network depends on the image only through it.

    Args:
      layer: the name of a layer, or of a block ("block13"), which stands for its first layer.
    Raises:
      ConfigError: the layer does not exist, or a shortcut connection bypasses it.
    """
    in_block = re.compile(rf"{re.escape(layer)}(?!\d)")
    names = [each.name for each in features.layers[1:]]
    found = [name for name in names if name == layer] or [name for name in names if in_block.match(name)]
    if not found:
        near = difflib.get_close_matches(layer, {*names, *(name.split("_")[0] for name in names)}, n=3)
        hint = (
            f" Did you mean {' or '.join(near)}?" if near else f" Its last layers: {', '.join(names[-8:])}."
        )
        raise ConfigError(f"--fine-tune-from: {features.name} has no layer {layer!r}.{hint}")
    if (tensor := _bottleneck(features, found[0])) is not None:
        return tensor
    before = names[: names.index(found[0])]
    possible = next(name for name in reversed(before) if _bottleneck(features, name) is not None)
    raise ConfigError(
        f"--fine-tune-from must name a layer that no shortcut connection bypasses. Received: {layer}, and a "
        f"shortcut bypasses {found[0]}. Try {possible}, the nearest layer before it."
    )


def _bottleneck(features: keras.Model, layer: str) -> keras.KerasTensor | None:
    """Return a layer's input if the network's output depends on the image only through it."""
    tensor = features.get_layer(layer).input
    if isinstance(tensor, list):
        return None
    try:
        keras.Model(tensor, features.output)
    except ValueError:  # "Output … is not connected to `inputs`"
        return None
    return tensor


def build_imagenet_classifier(backbone: Backbone, weights: str) -> keras.Model:
    """Build the complete ImageNet network: (N, H, W, 3) preprocessed → float32 (N, 1000) logits.

    Args:
      weights: "imagenet", "none" or the path of a .weights.h5 file of the network with its top.
    Raises:
      WeightsError: the weights cannot be downloaded or read, or belong to another network.
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
            f"--image-size must be a size that {backbone.name} accepts. Received: {size_px}. "
            f"Keras says: {_one_line(error)} Try its native size, {backbone.native_size_px}."
        ) from error
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(_no_download(backbone, error)) from error
    except Exception as error:
        # keras.utils.get_file raises a bare Exception for every failed download.
        if "URL fetch failure" not in str(error):
            raise
        raise WeightsError(_no_download(backbone, error)) from error
    if weights_file is not None:
        _load(network, weights_file, backbone)
    return network


def _no_download(backbone: Backbone, error: Exception) -> str:
    return (
        f"--weights imagenet: Keras could not download the weights of {backbone.name} "
        f"({_one_line(error)}). Pass a file with --weights FILE.weights.h5, or try the trainer with random "
        "weights: --weights none."
    )


def check_weights_file(path: Path) -> None:
    """Raise WeightsError unless the file exists and has the suffix that Keras requires."""
    if not path.name.endswith(".weights.h5"):
        raise WeightsError(
            f"--weights must be imagenet, none or a file whose name ends in .weights.h5. "
            f"Received: {str(path)!r}."
        )
    if not path.is_file():
        raise WeightsError(
            f"--weights must be imagenet, none or an existing file. Received: {path}, which is not "
            "an existing file. Check the path."
        )


def _load(network: keras.Model, path: Path, backbone: Backbone) -> None:
    try:
        with warnings.catch_warnings():
            # Keras warns once per layer; the error that follows says what could not be loaded.
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
            network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        top = "with" if network.output_shape == (None, 1000) else "without"
        raise WeightsError(
            f"--weights {path} does not hold the weights of {backbone.name} {top} its top "
            f"({_one_line(error)}). Pass a file that was saved from this backbone, or another --backbone."
        ) from error


def _one_line(error: Exception) -> str:
    """Shorten a long message of Keras: its beginning says what happened."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"
