import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.pictures import undecodable_picture
from trainer import run
from trainer.errors import DataError, StorageError
from trainer.report import evaluate_version


@pytest.fixture
def photos(image_tree: Path, tmp_path: Path) -> Path:
    """A copy of the test split, 12 images, that a test may change."""
    return Path(shutil.copytree(image_tree / "test", tmp_path / "photos"))


@pytest.fixture
def model(published: run.Published, tmp_path: Path) -> Path:
    """A copy of the published version, alone in a model directory."""
    shutil.copytree(published.path, tmp_path / "models" / "tiny" / "1")
    return tmp_path / "models" / "tiny"


def figures_of(html: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((html.parent / "report.json").read_text(encoding="utf-8"))
    return figures


def test_the_served_model_has_the_metrics_of_its_run(
    published: run.Published, image_tree: Path, tmp_path: Path
) -> None:
    metrics, html = evaluate_version(published.path, image_tree / "validation", tmp_path / "out")
    expected = published.metrics["validation"]
    assert (metrics.count, metrics.correct, metrics.accuracy) == (60, expected.correct, expected.accuracy)
    assert metrics.loss == pytest.approx(expected.loss, rel=1e-4)
    assert html == tmp_path / "out" / "report.html" and html.is_file()
    split = figures_of(html)["splits"]["validation"]
    assert (split["correct"], split["count"]) == (metrics.correct, metrics.count)
    assert split["loss"] == metrics.loss


def test_the_report_is_written_beside_the_version_and_names_it(model: Path, photos: Path) -> None:
    _, html = evaluate_version(model, photos)
    assert html.parent.parent == model / ".evaluations"
    assert re.fullmatch(r"1-\d{8}T\d{6}Z-[0-9a-f]{4}", html.parent.name)
    figures = figures_of(html)
    assert figures["title"] == "tiny, version 1, on photos"
    assert figures["facts"]["backbone"] == "vgg16, weights vgg16.weights.h5"
    assert figures["history"] == []
    stages = {stage["name"]: stage["images"] for stage in figures["stages"]}
    assert stages == {"loading the version": None, "reading the images": 12, "inference": 12}
    assert evaluate_version(model, photos)[1].parent != html.parent


def test_the_model_card_orders_the_outputs(model: Path, photos: Path) -> None:
    """The folders do not: the labels of a pre-trained network are not sorted."""
    before, _ = evaluate_version(model, photos)
    card = model / "1" / "assets.extra" / "model_card.json"
    content = json.loads(card.read_text(encoding="utf-8"))
    content["labels"] = [f"{9 - index} {label}" for index, label in enumerate(content["labels"])]
    card.write_text(json.dumps(content))
    for name in content["labels"]:
        (photos / name[2:]).rename(photos / name)
    after, html = evaluate_version(model, photos)
    assert after.correct == before.correct
    assert after.loss == pytest.approx(before.loss, rel=1e-5)
    assert figures_of(html)["splits"]["photos"]["classes"] == content["labels"]


def test_the_images_of_the_run_are_recognized(model: Path, image_tree: Path) -> None:
    figures = figures_of(evaluate_version(model, image_tree / "test")[1])
    assert "the same as the run's test split" in figures["facts"]["images"]
    assert figures["warnings"] == []
    (warning,) = figures_of(evaluate_version(model, image_tree / "train")[1])["warnings"]
    assert "trained on" in warning


def test_an_image_in_two_classes_is_a_warning(model: Path, photos: Path) -> None:
    shutil.copyfile(photos / "sun" / "000.jpg", photos / "moon" / "copy.jpg")
    (warning,) = figures_of(evaluate_version(model, photos)[1])["warnings"]
    assert "1 of the photos images" in warning


def test_a_missing_and_an_unknown_class_are_named(model: Path, photos: Path) -> None:
    (photos / "sun").rename(photos / "star")
    with pytest.raises(DataError) as caught:
        evaluate_version(model, photos)
    for part in (str(photos), "no folder for sun", "star"):
        assert part in str(caught.value)
    assert not (model / ".evaluations").exists()


def test_every_image_that_cannot_be_decoded_is_named(model: Path, photos: Path) -> None:
    broken = [photos / "sun" / "000.jpg", photos / "fish" / "001.jpg"]
    for path in broken:
        path.write_bytes(undecodable_picture())
    with pytest.raises(DataError, match="2 of 12 images") as caught:
        evaluate_version(model, photos, photos.parent / "out" / "report")
    for path in broken:
        assert str(path) in str(caught.value)
    assert "--on-invalid-image" not in str(caught.value)  # a flag of another command
    assert not (photos.parent / "out" / "report").exists()


def test_an_image_of_an_unsupported_format_is_named(model: Path, photos: Path) -> None:
    Image.new("RGB", (8, 8)).save(photos / "sun" / "new.tiff")
    (photos / "sun" / "new.tiff").rename(photos / "sun" / "new.png")
    with pytest.raises(DataError, match=r"sun/new\.png \(a file of the format TIFF\)"):
        evaluate_version(model, photos)


def test_an_existing_output_directory_stays_when_an_image_is_invalid(model: Path, photos: Path) -> None:
    output = photos.parent / "out"
    output.mkdir()
    (photos / "sun" / "000.jpg").write_bytes(undecodable_picture())
    with pytest.raises(DataError):
        evaluate_version(model, photos, output)
    assert output.is_dir()


@pytest.fixture
def open_to_all(model: Path, photos: Path) -> Iterator[Path]:
    """DIR/tiny/1 and DIR/photos, which other users may read and not write; pytest closes its own folders."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    shutil.copytree(model, directory / "tiny")
    shutil.copytree(photos, directory / "photos")
    yield directory
    shutil.rmtree(directory)


def test_a_read_only_volume_is_refused_with_a_way_out(open_to_all: Path, read_only_directory: Path) -> None:
    """`read_only_directory` makes this process another user; asked for before the images take their time."""
    (model, photos), refused = (open_to_all / "tiny", open_to_all / "photos"), r"Permission denied\. Name "
    with pytest.raises(StorageError, match=rf"{model}/\.evaluations/1-.*: {refused}a folder with --output"):
        evaluate_version(model, photos)
    for output in (read_only_directory, read_only_directory / "new"):
        with pytest.raises(StorageError, match=rf"{output}: {refused}another folder with --output"):
            evaluate_version(model, photos, output)
