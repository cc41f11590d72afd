"""Real photographs and ImageNet weights, from training to the client: the figures of docs/benchmarks.md.

make measured CLOTHING_DATA=DIR XCEPTION_WEIGHTS=FILE
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from serving_client import Client, InputSpec, Prediction, preprocessing
from serving_client.protocol import Via
from tests.conftest import serving
from tests.exif_files import FORMATS, encode, stored_turned
from trainer.data.decoding import decode_and_resize

pytestmark = pytest.mark.measured


def path_from(variable: str) -> Path:
    """Return the path that an environment variable names, or skip the test."""
    path = os.environ.get(variable, "")
    if not path or not Path(path).exists():
        pytest.skip(f"{variable} must name a file or folder that exists. Received: {path!r}.")
    return Path(path).resolve()


def probabilities(predictions: list[Prediction], labels: list[str]) -> np.ndarray:
    """Return float64 (images, labels)."""
    rows = [{score.label: score.probability for score in one.scores} for one in predictions]
    return np.array([[row[label] for label in labels] for row in rows])


@dataclasses.dataclass(frozen=True)
class Trained:
    """A version that was trained on the photographs, and served."""

    data: Path
    card: Mapping[str, Any]
    client: Client

    @property
    def validation_paths(self) -> list[Path]:
        return sorted(self.data.glob("validation/*/*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    data, weights = path_from("CLOTHING_DATA"), path_from("XCEPTION_WEIGHTS")
    model_dir = tmp_path_factory.mktemp("models")
    subprocess.run(
        [
            *(sys.executable, "-m", "trainer", "train", "--data", data, "--weights", weights),
            *("--image-size", "150", "--epochs", "10", "--learning-rate", "0.001"),
            *("--model-dir", model_dir, "--name", "clothing"),
        ],
        check=True,
    )
    card = json.loads((model_dir / "clothing/1/assets.extra/model_card.json").read_text())
    with (
        serving("clothing", model_dir / "clothing") as (address, _),
        Client(address, model="clothing", timeout_s=120) as client,
    ):
        yield Trained(data, card, client)


def test_xception_reaches_0_79_and_the_client_gets_the_same_number_right(trained: Trained) -> None:
    validation, labels = trained.card["metrics"]["validation"], trained.card["labels"]
    print(f"\ntrainer: {validation['correct']} of {validation['count']} ({validation['accuracy']:.4f})")
    assert validation["accuracy"] >= 0.79

    paths = trained.validation_paths
    images = trained.client.classify(paths, top_k=len(labels), via="images")
    encoded = trained.client.classify(paths, top_k=len(labels), via="encoded")
    for via, predictions in (("images", images), ("encoded", encoded)):
        correct = sum(one.label == path.parent.name for one, path in zip(predictions, paths, strict=True))
        print(f"client, via {via}: {correct} of {len(paths)}")
        assert correct == validation["correct"]

    assert [one.label for one in images] == [one.label for one in encoded]
    difference = np.abs(probabilities(images, labels) - probabilities(encoded, labels)).max()
    print(f"largest difference of a probability between the request types: {difference:.1e}")
    assert difference <= 1e-4


@dataclasses.dataclass(frozen=True)
class Stored:
    """A photograph as a camera stores it that was held in another way, and a file of the same pixels upright.

    Attributes:
      differs: whether client or graph make other levels of the two.
    """

    name: str
    file: bytes
    upright: bytes
    differs: bool


def stored_in_every_orientation(
    path: Path, spec: InputSpec, decoded: Callable[[tf.Tensor], tf.Tensor]
) -> list[Stored]:
    """Store a photograph in 8 orientations and 3 formats; `decoded` is the graph's decoding.

    PNG and WebP (lossless) have the photograph's own pixels and are compared with its file. A JPEG that is
    written anew has other pixels, and one of turned pixels has others again. So a JPEG is compared with its
    own decoded pixels, turned by Pillow and stored as PNG.
    """
    original = path.read_bytes()
    photograph = preprocessing.decode(original, exif_orientation=True)
    stored = []
    for format_name in FORMATS:
        for orientation in range(1, 9):
            file, upright = stored_turned(photograph, format_name, orientation), original
            if format_name == "JPEG":
                with Image.open(io.BytesIO(file)) as opened:
                    upright = encode(ImageOps.exif_transpose(opened), "PNG")
            in_client, expected_in_client = (preprocessing.preprocess(one, spec) for one in (file, upright))
            in_graph, expected_in_graph = (decoded(tf.constant(one)).numpy() for one in (file, upright))
            same = np.array_equal(in_client, expected_in_client)
            same = same and np.array_equal(in_graph, expected_in_graph)
            name = f"{path.name} as {format_name}, orientation {orientation}"
            stored.append(Stored(name, file, upright, differs=not same))
    return stored


def test_the_answers_are_the_same_in_every_orientation(trained: Trained) -> None:
    """Equal levels get equal answers. The network runs on every 30th photograph, and on any that differs."""
    spec, labels = trained.client.describe().input, trained.card["labels"]
    assert spec.exif_orientation
    decoded = tf.function(
        lambda encoded: decode_and_resize(encoded, spec.height_px),
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    )
    paths = trained.validation_paths
    asked: list[Stored] = []
    count = differing = 0
    with ThreadPoolExecutor(2) as pool:
        every = pool.map(lambda path: stored_in_every_orientation(path, spec, decoded), paths)
        for number, stored in enumerate(every):
            count += len(stored)
            differing += sum(one.differs for one in stored)
            asked += [one for one in stored if one.differs or number % 30 == 0]
    print(f"\n{count} files of {len(paths)} photographs: {differing} have other levels than upright ones")
    for via in get_args(Via):
        upright, turned = (
            trained.client.classify(files, top_k=len(labels), via=via)
            for files in ([one.upright for one in asked], [one.file for one in asked])
        )
        flips = [a.name for a, b, c in zip(asked, upright, turned, strict=True) if b.label != c.label]
        difference = np.abs(probabilities(upright, labels) - probabilities(turned, labels)).max()
        print(
            f"via {via}: {len(asked)} asked, {len(flips)} other labels, largest difference {difference:.1e}"
        )
        assert not flips
        assert difference <= 1e-4
    assert differing == 0
