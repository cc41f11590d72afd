import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from trainer.errors import ConfigError, WeightsError
from trainer.model.backbones import (
    backbone_names,
    build_features,
    build_imagenet_classifier,
    find_backbone,
    preprocess_input,
)

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

# Each network's own module, where Keras keeps the `preprocess_input` that belongs to it.
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


def test_the_table_holds_what_the_readme_promises() -> None:
    assert set(backbone_names()) == set(MODULES) == REQUIRED
    assert find_backbone("Xception") == find_backbone("xception")


@pytest.mark.parametrize("name", backbone_names())
def test_each_backbone_builds_frozen_and_pooled(name: str) -> None:
    network = build_features(find_backbone(name), 96, "none")
    assert network.input_shape == (None, 96, 96, 3)
    assert len(network.output_shape) == 2
    assert not network.trainable_variables


@pytest.mark.parametrize("name", backbone_names())
def test_preprocessing_in_the_graph_is_the_networks_own(name: str) -> None:
    levels = np.random.default_rng(0).uniform(0, 255, (2, 5, 4, 3)).astype(np.float32)
    own = getattr(keras.applications, MODULES[name]).preprocess_input
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(preprocess_input(find_backbone(name), levels.copy())),
        own(levels.copy()),
        rtol=0,
        atol=1e-6,
    )


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Received: 'resnet50'. Did you mean resnet50v2\?"):
        find_backbone("resnet50")


@pytest.mark.parametrize(("name", "size"), [("xception", 70), ("inceptionv3", 74), ("vgg16", 31)])
def test_refuses_a_size_that_the_backbone_refuses(name: str, size: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"--image-size is refused by {name}. Received: {size}. .* native size"
    ):
        build_features(find_backbone(name), size, "none")


def test_loads_weights_from_a_file(weights_file: Path) -> None:
    one, other = (build_features(find_backbone("vgg16"), 64, str(weights_file)) for _ in range(2))
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", [name for name in backbone_names() if name != "vgg16"])
def test_refuses_the_weights_of_another_backbone(name: str, weights_file: Path) -> None:
    with pytest.raises(WeightsError, match=f"does not hold the weights of {name} without its top"):
        build_features(find_backbone(name), 96, str(weights_file))


def test_refuses_a_file_that_lacks_a_layer(tmp_path: Path, weights_file: Path) -> None:
    lacking = Path(shutil.copy(weights_file, tmp_path / "lacking.weights.h5"))
    with h5py.File(lacking, "r+") as file:
        del file["layers/conv2d_5"]
    with pytest.raises(WeightsError, match="does not hold the weights of vgg16"):
        build_features(find_backbone("vgg16"), 96, str(lacking))


def test_refuses_the_weights_without_top_for_the_whole_network(weights_file: Path) -> None:
    with pytest.raises(WeightsError, match="does not hold the weights of vgg16 with its top"):
        build_imagenet_classifier(find_backbone("vgg16"), str(weights_file))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        pytest.param("nowhere.weights.h5", None, "there is no such file", id="missing"),
        pytest.param("model.h5", b"", r"ends in .weights.h5", id="other suffix"),
        pytest.param("broken.weights.h5", b"no HDF5", "does not hold the weights", id="no HDF5"),
    ],
)
def test_refuses_a_weights_file(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        build_features(find_backbone("mobilenetv2"), 96, str(tmp_path / file))


def test_imagenet_without_a_network_names_the_other_two_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))  # no weights cached
    monkeypatch.setattr("urllib.request._opener", None)  # or it keeps the proxies for later tests
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(WeightsError, match=r"could not download.*--weights FILE.weights.h5.*--weights none"):
        build_features(find_backbone("mobilenetv2"), 96, "imagenet")
