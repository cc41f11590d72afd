import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from serving_client import preprocessing
from tests.trainer.export.conftest import Exported
from trainer import run
from trainer.config import TrainConfig
from trainer.errors import ExportMismatchError
from trainer.export import ExportCheck, ModelDirectory, PublishedVersion, check_and_write_warmup
from trainer.export.export_check import MAX_DIFFERENCE, Mismatch, check_export, sample_examples
from trainer.report.report import HTML_NAME

SIGNATURES = ("serving_default", "encoded_images")


@pytest.fixture(scope="module")
def version(exported: Exported) -> PublishedVersion:
    return PublishedVersion.open(exported.path)


def signatures_of(check: ExportCheck) -> set[str]:
    return {mismatch.signature for mismatch in check.mismatches}


def test_a_version_matches_its_network_through_both_signatures(
    version: PublishedVersion, exported: Exported
) -> None:
    check = check_export(version, exported.network, sample_examples(exported.examples))
    assert check.images == 60
    assert not check.mismatches and not check.warnings()
    assert set(check.largest_difference) == set(SIGNATURES)
    assert all(0 <= difference <= MAX_DIFFERENCE for difference in check.largest_difference.values())
    assert "60 images" in check.summary()
    assert all(signature in check.summary() for signature in SIGNATURES)
    check.require_match()


def upside_down(preprocess: Any) -> Callable[..., np.ndarray]:
    return lambda image, spec: np.ascontiguousarray(preprocess(image, spec)[::-1])


def test_a_client_that_preprocesses_otherwise_mismatches_serving_default(
    version: PublishedVersion, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "preprocess", upside_down(preprocessing.preprocess))
    check = check_export(version, exported.network, exported.examples)
    assert signatures_of(check) == {"serving_default"}
    assert {mismatch.path for mismatch in check.mismatches} <= set(map(str, exported.examples.images.paths))
    assert check.largest_difference["serving_default"] > MAX_DIFFERENCE


def test_a_graph_that_resizes_otherwise_mismatches_encoded_images(
    version: PublishedVersion, exported: Exported
) -> None:
    """Training and the card say "nearest", and the graph was exported with "bilinear"."""
    card = {**version.card, "input": {**version.card["input"], "resize_filter": "nearest"}}
    check = check_export(
        dataclasses.replace(version, card=card),
        exported.network,
        dataclasses.replace(exported.examples, resize_filter="nearest"),
    )
    assert signatures_of(check) == {"encoded_images"}


LABELS = ("cat", "dog")


def check_probabilities(
    exported: Exported,
    trained: Sequence[float],
    served: Sequence[float],
    monkeypatch: pytest.MonkeyPatch,
) -> ExportCheck:
    """Run the check on real images with given probabilities of "cat"; `encoded_images` always matches."""

    def both(cat: Sequence[float]) -> np.ndarray:
        return np.stack([np.array(cat, np.float32), 1 - np.array(cat, np.float32)], axis=1)

    monkeypatch.setattr(preprocessing, "preprocess", lambda path, spec: np.zeros((1, 1, 3), np.float32))
    version: Any = SimpleNamespace(
        labels=LABELS,
        card={"input": {"height_px": 1, "width_px": 1, "preprocessing": "tf", "resize_filter": "bilinear"}},
        predict_images=lambda images: both(served),
        predict_files=lambda paths: (None, both(trained)),
    )
    logits = tf.math.log(both(trained))
    examples = dataclasses.replace(
        exported.examples, images=exported.examples.images.subset(range(len(trained)))
    )
    return check_export(version, lambda images, training: logits, examples)


@pytest.mark.parametrize(
    ("served", "mismatching_rows"),
    [
        pytest.param([0.9, 0.6, 0.3], [], id="equal"),
        pytest.param([0.9, 0.6 + 0.9e-4, 0.3], [], id="just within the limit"),
        pytest.param([0.9, 0.6 + 1.1e-4, 0.3], [1], id="just beyond the limit"),
        pytest.param([float("nan"), 0.6, 0.3], [0], id="not a number, with the same label"),
        pytest.param([0.8, 0.6, 0.2], [0, 2], id="two of three"),
    ],
)
def test_a_difference_above_the_limit_is_a_mismatch(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, served: list[float], mismatching_rows: list[int]
) -> None:
    check = check_probabilities(exported, [0.9, 0.6, 0.3], served, monkeypatch)
    paths = exported.examples.images.paths
    assert [mismatch.path for mismatch in check.mismatches] == [str(paths[row]) for row in mismatching_rows]
    assert signatures_of(check) <= {"serving_default"}


def test_another_label_is_a_mismatch_however_small_the_difference(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mismatch,) = check_probabilities(exported, [0.50001], [0.49999], monkeypatch).mismatches
    assert mismatch.difference < MAX_DIFFERENCE
    assert (mismatch.trained_label, mismatch.exported_label) == ("cat", "dog")


def test_a_mismatch_is_an_error_of_one_line_that_names_it() -> None:
    mismatches = [Mismatch(f"{index}.jpg", "encoded_images", 0.25, "cat", "dog") for index in range(3)]
    check = ExportCheck(3, {"encoded_images": 0.25}, mismatches)
    with pytest.raises(ExportMismatchError) as caught:
        check.require_match()
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("3 ", "6 ", "0.jpg", "encoded_images", "0.25", "cat", "dog"))
    assert ["1.jpg" in warning for warning in check.warnings()] == [False, True, False]


def test_a_version_that_mismatches_is_not_published(exported: Exported, tmp_path: Path) -> None:
    """The version on disk has other weights than the network in memory."""
    directory = ModelDirectory(tmp_path, "tiny")
    directory.prepare()
    checks: list[ExportCheck] = []
    weights = exported.network.get_weights()

    def save(staging: Path, card: str) -> None:
        shutil.copytree(exported.path, staging)

    def check(staging: Path) -> None:
        check_and_write_warmup(staging, exported.network, exported.examples, checks.append)

    exported.network.set_weights([*weights[:-1], weights[-1] + np.arange(6, dtype=np.float32) / 100])
    try:
        with pytest.raises(ExportMismatchError):
            directory.publish(exported.card, save, check)
    finally:
        exported.network.set_weights(weights)
    assert [signatures_of(result) for result in checks] == [set(SIGNATURES)]
    assert directory.versions() == []


def test_a_run_whose_export_mismatches_says_so_in_its_report(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "preprocess", upside_down(preprocessing.preprocess))
    with pytest.raises(ExportMismatchError):
        run.train(TrainConfig(model_dir=tmp_path, **{**settings, "epochs": 1}))
    assert not list((tmp_path / "tiny").glob("[0-9]*"))
    (report,) = (tmp_path / "tiny").glob(f".runs/*/{HTML_NAME}")
    figures = json.loads((report.parent / "report.json").read_text())
    assert any("60 images" in fact and "serving_default" in fact for fact in figures["facts"].values())
    assert any(".jpg through serving_default" in warning for warning in figures["warnings"])
    assert ".jpg through serving_default" in report.read_text()


def test_the_sample_is_spread_over_the_whole_set(exported: Exported) -> None:
    images = exported.examples.images
    few = dataclasses.replace(exported.examples, images=images.subset(range(0, 60, 30)))
    many = dataclasses.replace(exported.examples, images=images.subset([index % 60 for index in range(200)]))
    assert sample_examples(exported.examples).images == images
    assert sample_examples(few).images == few.images
    sample = sample_examples(many).images
    assert len(sample) == 64
    assert (sample.paths[0], sample.paths[-1]) == (many.images.paths[0], many.images.paths[-1])
