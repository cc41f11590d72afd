"""Fixtures of real parts: a small image set, a backbone with its weights, a version and its server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from local_server import configuration
from local_server.grpc_api import build_server
from local_server.models import Models
from serving_client import Client
from trainer import run
from trainer.commands import sample
from trainer.config import TrainConfig
from trainer.training.distribution import configure_logical_cpus

# Logical devices are fixed with the first operation, so every test runs with two.
configure_logical_cpus(2)

# The servers of the tests run on this machine; no proxy leads to them.
for _name in [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]:
    del os.environ[_name]

IMAGE_SIZE_PX = 32


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 classes of drawings, 48 px: 8 train, 10 validation and 2 test images each."""
    directory = tmp_path_factory.mktemp("data") / "images"
    sample.write_sample(directory, train_per_class=8, image_size_px=48)
    return directory


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16's weights: random, scaled so that the signal survives all of its layers.

    VGG16 has few layers, so it is quick to trace, and its input (BGR, mean subtracted) shows mistakes in
    preprocessing. With the weights that Keras draws, the features all but vanish, and any comparison of
    two answers would succeed.
    """
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), pooling="avg"
    )
    gains = [1 / 64] + [2**0.5] * 12  # levels to about 1; then He's variance instead of Glorot's
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, gain in zip(convolutions, gains, strict=True):
        layer.kernel.assign(layer.kernel * gain)
    path = tmp_path_factory.mktemp("weights") / "vgg16.weights.h5"
    network.save_weights(path)
    return path


@pytest.fixture(scope="session")
def settings(image_tree: Path, weights_file: Path) -> dict[str, Any]:
    """Settings of a run that takes seconds; a test adds model_dir and its own changes."""
    return {
        "data": image_tree,
        "name": "tiny",
        "backbone": "vgg16",
        "weights": str(weights_file),
        "image_size": IMAGE_SIZE_PX,
        "learning_rate": 0.03,
        "epochs": 10,
        "batch_size": 8,
        "cpu_replicas": 2,
    }


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> run.Published:
    """A version that a run has published; tests must not change it."""
    return run.train(TrainConfig(model_dir=tmp_path_factory.mktemp("models"), **settings))


@pytest.fixture(scope="session")
def address(published: run.Published) -> Iterator[str]:
    """HOST:PORT of a local server with the published version, as model `tiny`."""
    with serving("tiny", published.path.parent) as (address, _):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, model="tiny", timeout_s=60) as client:
        yield client


class serving:
    """Run the local server's gRPC API in this process: `with serving(NAME, DIR) as (address, models)`."""

    def __init__(self, name: str, base_path: Path, max_threads: int = 8) -> None:
        self.models = Models()
        self.models.configure(configuration.single_model(name, base_path))
        self.server, self.port = build_server(self.models, "localhost:0", max_threads)

    def __enter__(self) -> tuple[str, Models]:
        self.models.poll()
        self.server.start()
        return f"localhost:{self.port}", self.models

    def __exit__(self, *_: object) -> None:
        self.server.stop(grace=5).wait()


@pytest.fixture
def read_only_directory() -> Iterator[Path]:
    """A directory that this process may read but not write; root acts as another user meanwhile."""
    directory = Path(tempfile.mkdtemp())  # pytest's own tmp_path is closed to other users
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield directory
    finally:
        os.seteuid(user)
        directory.rmdir()


def tiny_saved_model(directory: Path, answer: float) -> None:
    """Write a SavedModel that returns a constant, in the shape of the export contract."""

    class Constant(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(  # type: ignore[untyped-decorator]  # TensorFlow has no types
            input_signature=[tf.TensorSpec((None, 2), tf.float32, name="images")]
        )
        def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": tf.fill((tf.shape(images)[0], 1), answer)}

    module = Constant()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})
