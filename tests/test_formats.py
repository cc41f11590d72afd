"""Pictures of every format and orientation train, are exported, and get the same answer by every way."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from serving_client import Client, Prediction
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Via
from tests.conftest import serving
from tests.exif_files import FORMATS, encode, stored_turned
from tests.heif_files import HEIF_FORMATS
from trainer import run
from trainer.config import TrainConfig
from trainer.data import scan_split
from trainer.report import evaluate_version


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((61, 47), Image.Resampling.BICUBIC)


def files_of_every_format(seed: int) -> dict[str, bytes]:
    image = picture(seed)
    transparent = image.convert("RGBA")
    transparent.putalpha(image.convert("L"))
    animation: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(90)]}
    turned = {f"turned.{name}.jpg": stored_turned(image, name, 1 + seed % 8) for name in FORMATS}
    heif = {
        f"{name}.{name.lower()}": stored_turned(image, orientation=6, **options)
        for name, options in HEIF_FORMATS.items()
    }
    return {
        **turned,
        **heif,
        "iphone.jpg": encode(image, **HEIF_FORMATS["HEIC"]),
        "x.gif": encode(image, "GIF", **animation),
        "x.bmp": encode(image, "BMP"),
        "lossy.webp": encode(image, "WEBP", lossless=False),
        "alpha.webp": encode(transparent, "WEBP"),
        "animated.webp": encode(image, "WEBP", **animation),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, each with a file of every format in both splits."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, place in enumerate(("train/a", "train/b", "validation/a", "validation/b")):
        (folder / place).mkdir(parents=True)
        for name, file in files_of_every_format(number).items():
            (folder / place / name).write_bytes(file)
    return folder


@pytest.fixture(scope="module")
def published(
    data: Path, tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
) -> run.Published:
    """The export check has compared every file of the validation split."""
    changes: dict[str, Any] = {"data": data, "epochs": 1, "name": "formats"}
    return run.train(TrainConfig(model_dir=tmp_path_factory.mktemp("models"), **{**settings, **changes}))


@pytest.fixture(scope="module")
def client(published: run.Published) -> Iterator[Client]:
    with (
        serving("formats", published.path.parent) as (address, _),
        Client(address, model="formats") as opened,
    ):
        yield opened


def probabilities(predictions: list[Prediction]) -> np.ndarray:
    rows = [{score.label: score.probability for score in one.scores} for one in predictions]
    return np.array([[row[label] for label in sorted(row)] for row in rows])


def test_every_file_gets_the_same_answer_by_every_way(client: Client, data: Path) -> None:
    paths = sorted(data.glob("validation/*/*"))
    files = [path.read_bytes() for path in paths]
    expected = client.classify(paths)
    ways: list[list[ImageInput]] = [[*paths], [*files], [Image.open(io.BytesIO(file)) for file in files]]
    for via in get_args(Via):
        for images in ways:
            answers = client.classify(images, via=via)
            assert [one.label for one in answers] == [one.label for one in expected]
            np.testing.assert_allclose(probabilities(answers), probabilities(expected), rtol=0, atol=1e-4)


def test_evaluating_reads_every_format_and_shows_its_pictures(
    published: run.Published, data: Path, tmp_path: Path
) -> None:
    metrics, report = evaluate_version(published.path, data / "validation", tmp_path / "report")
    assert metrics.correct == published.metrics["validation"].correct
    assert "can no longer be read" not in report.read_text(encoding="utf-8")


def test_the_scan_accepts_every_format(data: Path) -> None:
    assert len(scan_split(data / "train")) == 2 * len(files_of_every_format(0))
