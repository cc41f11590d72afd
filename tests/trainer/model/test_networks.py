import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from trainer.errors import ConfigError, WeightsError
from trainer.model.backbones import backbone_names, find_backbone
from trainer.model.networks import build_features, build_imagenet_classifier, layer_input


@pytest.mark.parametrize("name", backbone_names())
def test_each_backbone_builds_frozen_and_pooled(name: str) -> None:
    network = build_features(find_backbone(name), 96, "none")
    assert network.input_shape == (None, 96, 96, 3)
    assert len(network.output_shape) == 2
    assert not network.trainable_variables


@pytest.mark.parametrize(("name", "size"), [("xception", 70), ("inceptionv3", 74), ("vgg16", 31)])
def test_refuses_an_image_size_that_the_backbone_does_not_accept(name: str, size: int) -> None:
    with pytest.raises(
        ConfigError, match=f"--image-size .*{name}.*{size}.*{find_backbone(name).native_size_px}"
    ):
        build_features(find_backbone(name), size, "none")


def test_loads_weights_from_a_file(weights_file: Path) -> None:
    one, other = (build_features(find_backbone("vgg16"), 64, str(weights_file)) for _ in range(2))
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv3small", "xception"])
def test_refuses_the_weights_of_another_backbone(name: str, weights_file: Path) -> None:
    with pytest.raises(WeightsError, match=f"{weights_file}.*{name} without its top"):
        build_features(find_backbone(name), 96, str(weights_file))


def test_refuses_a_file_that_lacks_a_layer(tmp_path: Path, weights_file: Path) -> None:
    lacking = Path(shutil.copy(weights_file, tmp_path / "lacking.weights.h5"))
    with h5py.File(lacking, "r+") as file:
        del file["layers/conv2d_5"]
    with pytest.raises(WeightsError, match="lacking.weights.h5.*vgg16"):
        build_features(find_backbone("vgg16"), 96, str(lacking))


def test_refuses_the_weights_without_top_for_the_whole_network(weights_file: Path) -> None:
    with pytest.raises(WeightsError, match="vgg16 with its top"):
        build_imagenet_classifier(find_backbone("vgg16"), str(weights_file))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param("nowhere.weights.h5", None, id="missing"),
        pytest.param("model.h5", b"", id="other suffix"),
        pytest.param("broken.weights.h5", b"not HDF5", id="not HDF5"),
    ],
)
def test_refuses_a_weights_file(tmp_path: Path, file: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=f"--weights .*{file}"):
        build_features(find_backbone("mobilenetv2"), 96, str(tmp_path / file))


def test_a_failed_download_suggests_a_file_or_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))  # no weights cached
    monkeypatch.setattr("urllib.request._opener", None)  # or it keeps the proxies for later tests
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(WeightsError, match=r"--weights imagenet.*mobilenetv2.*\.weights\.h5.*--weights none"):
        build_features(find_backbone("mobilenetv2"), 96, "imagenet")


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return build_features(find_backbone("mobilenetv2"), 32, "none")


def test_a_blocks_name_stands_for_its_first_layer(mobilenet: keras.Model) -> None:
    first_layer = mobilenet.get_layer("block_13_expand")
    assert layer_input(mobilenet, "block_13") is layer_input(mobilenet, "block_13_expand")
    assert layer_input(mobilenet, "block_13") is first_layer.input


def test_an_unknown_layer_suggests_the_nearest(mobilenet: keras.Model) -> None:
    with pytest.raises(ConfigError, match="--fine-tune-from.*'block_13_expend'.*block_13_expand"):
        layer_input(mobilenet, "block_13_expend")


def test_a_layer_that_a_shortcut_bypasses_suggests_an_earlier_one(mobilenet: keras.Model) -> None:
    with pytest.raises(ConfigError, match="--fine-tune-from.*block_14_depthwise.*block_14_expand"):
        layer_input(mobilenet, "block_14_depthwise")
