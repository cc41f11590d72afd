import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from tests.pictures import undecodable_picture
from trainer.data.decoding import decode_and_resize
from trainer.data.folders import scan_folders
from trainer.data.image_set import Splits
from trainer.data.screening import ScreenedImages
from trainer.errors import DataError


@pytest.fixture
def data(tmp_path: Path, image_tree: Path) -> Path:
    """Two images of two classes in each split; an empty file and an undecodable one in train/sun."""
    root = tmp_path / "data"
    for split in ("train", "validation"):
        for name in ("sun", "moon"):
            (root / split / name).mkdir(parents=True)
            for file in ("000.jpg", "001.jpg"):
                shutil.copyfile(image_tree / split / name / file, root / split / name / file)
    (root / "train" / "sun" / "empty.jpg").touch()
    (root / "train" / "sun" / "undecodable.jpg").write_bytes(undecodable_picture())
    return root


def decode_all(splits: Splits) -> int:
    paths = [path for images in splits.values() for path in images.paths]
    for path in paths:
        decode_and_resize(tf.io.read_file(str(path)), 8)
    return len(paths)


def test_skips_invalid_images_when_scanned_and_when_decoded(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ScreenedImages(scan_folders(data), "skip", tmp_path, is_chief=True)
    assert [len(split) for split in images.splits.values()] == [5, 4]
    assert images.read(decode_all) == 8
    assert [len(split) for split in images.splits.values()] == [4, 4]
    listed = json.loads((tmp_path / "invalid_images.json").read_text())
    assert [Path(entry["path"]).name for entry in listed] == ["empty.jpg", "undecodable.jpg"]
    assert str(tmp_path / "invalid_images.json") in caplog.text


def test_fails_on_what_the_scan_found_and_lists_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 10 .*empty.jpg"):
        ScreenedImages(scan_folders(data), "fail", tmp_path, is_chief=True)
    (listed,) = json.loads((tmp_path / "invalid_images.json").read_text())
    assert listed["reason"] == "zero bytes"


def test_fails_on_what_cannot_be_decoded(data: Path, tmp_path: Path) -> None:
    (data / "train" / "sun" / "empty.jpg").unlink()
    images = ScreenedImages(scan_folders(data), "fail", tmp_path, is_chief=True)
    assert not (tmp_path / "invalid_images.json").exists()
    with pytest.raises(DataError, match="1 of 9 .*undecodable.jpg"):
        images.read(decode_all)


def test_only_the_chief_writes_the_list(data: Path, tmp_path: Path) -> None:
    ScreenedImages(scan_folders(data), "skip", tmp_path, is_chief=False).read(decode_all)
    assert not (tmp_path / "invalid_images.json").exists()


def test_an_error_that_no_image_explains_is_raised_again(data: Path, tmp_path: Path) -> None:
    (data / "train" / "sun" / "undecodable.jpg").unlink()
    images = ScreenedImages(scan_folders(data), "skip", tmp_path, is_chief=True)

    def fail(splits: Splits) -> None:
        raise tf.errors.InvalidArgumentError(None, None, "a bug")

    with pytest.raises(tf.errors.InvalidArgumentError, match="a bug"):
        images.read(fail)
