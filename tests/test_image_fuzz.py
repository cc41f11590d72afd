"""Damaged image files: the trainer refuses each by name, or client and graph decode it to the same levels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from serving_client import Client, ImageError, InputSpec, preprocessing
from tests.conftest import serving
from tests.mutations import mutated
from tests.pictures import pictures
from trainer import run
from trainer.config import TrainConfig
from trainer.data import ImageSet, decode_and_resize, find_undecodable
from trainer.data.invalid_images import inspect_image_file
from trainer.errors import DataError

SIZE_PX = 8
SPEC = InputSpec(SIZE_PX, SIZE_PX, mode="none", exif_orientation=True)
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP")


@dataclasses.dataclass(frozen=True)
class Screened:
    """Files as the trainer sorts them: path and reason of those that it refuses, and the others."""

    by_scan: Mapping[Path, str]
    by_first_read: Mapping[Path, str]
    valid: tuple[Path, ...]

    @property
    def refused(self) -> dict[Path, str]:
        return {**self.by_scan, **self.by_first_read}


def write_mutations(directory: Path, seeds: Iterable[int], formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write one mutated file for each seed, of all kinds in turn."""
    directory.mkdir(parents=True, exist_ok=True)
    kinds = [data for name, data in pictures().items() if name.split()[0] in formats]
    paths = []
    for seed in seeds:
        paths.append(directory / f"{seed}.jpg")
        paths[-1].write_bytes(mutated(kinds[seed % len(kinds)], seed))
    return paths


def screen(paths: Iterable[Path]) -> Screened:
    inspected = {path: inspect_image_file(path) for path in paths}
    by_scan = {path: invalid.reason for path, (_, invalid) in inspected.items() if invalid}
    rest = tuple(path for path in inspected if path not in by_scan)
    images = ImageSet(("any",), rest, (0,) * len(rest), tuple(inspected[path][0] for path in rest))
    by_first_read = {invalid.path: invalid.reason for invalid in find_undecodable([images])}
    return Screened(by_scan, by_first_read, tuple(path for path in rest if path not in by_first_read))


def assert_client_agrees(screened: Screened) -> None:
    """Refuse and accept the same files as the trainer, for the same reasons, with the same levels."""
    for path, reason in screened.refused.items():
        for read in (preprocessing.preprocess, preprocessing.encode):
            with pytest.raises(ImageError) as caught:
                read(path, SPEC)
            assert reason in str(caught.value), path
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for path in screened.valid:
        client = preprocessing.preprocess(path, SPEC)
        graph = decode_and_resize(tf.constant(preprocessing.encode(path, SPEC)), SIZE_PX).numpy()
        np.testing.assert_allclose(client, graph, rtol=0, atol=0.01, err_msg=str(path))


@pytest.mark.parametrize("format_name", FORMATS)
def test_2000_damaged_files_are_refused_by_name_or_decoded_alike(tmp_path: Path, format_name: str) -> None:
    screened = screen(write_mutations(tmp_path, range(400), [format_name]))
    assert len(screened.valid) >= 40 and len(screened.by_scan) >= 40
    assert_client_agrees(screened)


@pytest.mark.soak
@pytest.mark.parametrize("format_name", FORMATS)
def test_20000_damaged_files_are_refused_by_name_or_decoded_alike(tmp_path: Path, format_name: str) -> None:
    assert_client_agrees(screen(write_mutations(tmp_path, range(400, 4400), [format_name])))


def test_files_of_every_kind_are_valid_and_decoded_alike(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jpg" for name in pictures()]
    for path, data in zip(paths, pictures().values(), strict=True):
        path.write_bytes(data)
    screened = screen(paths)
    assert not screened.refused
    assert_client_agrees(screened)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in two splits, each with 40 damaged files; the first also has a valid file of each kind."""
    root = tmp_path_factory.mktemp("damaged")
    for number, split in enumerate(("train", "validation")):
        for label, name in enumerate(("one", "other")):
            first = 100_000 + 40 * (2 * number + label)
            write_mutations(root / split / name, range(first, first + 40))
    for name, picture in pictures().items():
        (root / "train" / "one" / f"{name}.jpg").write_bytes(picture)
    return root


@pytest.fixture(scope="module")
def screened(data: Path) -> Screened:
    return screen(sorted(data.glob("*/*/*")))


def test_the_damaged_files_are_skipped_and_the_others_train_and_are_answered_alike(
    tmp_path: Path, data: Path, screened: Screened, settings: dict[str, Any]
) -> None:
    changes = {"data": data, "on_invalid_image": "skip", "epochs": 1, "model_dir": tmp_path}
    published = run.train(TrainConfig(**{**settings, **changes}))
    listed = json.loads((published.run_directory / "invalid_images.json").read_text())
    assert {Path(one["path"]): one["reason"] for one in listed} == screened.refused
    assert screened.by_first_read
    with (
        serving("tiny", published.path.parent) as (address, _),
        Client(address, model="tiny", timeout_s=60) as client,
    ):
        by_pixels = client.classify(list(screened.valid), top_k=2, via="images")
        by_bytes = client.classify(list(screened.valid), top_k=2, via="encoded")
    for one, other in zip(by_pixels, by_bytes, strict=True):
        assert one.scores[0].label == other.scores[0].label
        assert abs(one.scores[0].probability - other.scores[0].probability) <= 1e-4


@pytest.mark.parametrize("feature_cache", [True, False])
@pytest.mark.parametrize("found_by", ["scan", "first read"])
def test_damaged_files_fail_a_run_by_name_before_the_training(
    tmp_path: Path,
    data: Path,
    screened: Screened,
    settings: dict[str, Any],
    found_by: str,
    feature_cache: bool,
) -> None:
    refused = screened.by_scan if found_by == "scan" else screened.by_first_read
    for path in (*screened.valid, *refused):
        link = tmp_path / "data" / path.relative_to(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    changes = {"data": tmp_path / "data", "feature_cache": feature_cache, "model_dir": tmp_path / "models"}
    with pytest.raises(DataError) as caught:
        run.train(TrainConfig(**{**settings, **changes}))
    assert caught.value.exit_code == 3
    (listed,) = (tmp_path / "models").glob("tiny/.runs/*/invalid_images.json")
    reasons = {Path(one["path"]).name: one["reason"] for one in json.loads(listed.read_text())}
    assert reasons == {path.name: reason for path, reason in refused.items()}
    assert next(iter(reasons)) in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "models").glob("tiny/.runs/*/history.json"))
