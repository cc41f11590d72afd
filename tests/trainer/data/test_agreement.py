import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import encode, photograph, png, undecodable_picture
from trainer.data import agreement
from trainer.data.agreement import find_undecodable
from trainer.data.decoding import decode
from trainer.data.folders import scan_split
from trainer.data.image_set import ImageSet
from trainer.data.pipeline import ImageExamples
from trainer.model import find_backbone

PHOTOGRAPH = encode("JPEG", photograph())


def image_set(*paths: Path) -> ImageSet:
    return ImageSet(("any",), paths, (0,) * len(paths), tuple(f"{index:064}" for index in range(len(paths))))


def read_first(paths: list[Path], views: int = 1) -> int:
    """Return how many examples a first read gives."""
    examples = ImageExamples(image_set(*paths), find_backbone("vgg16"), 8, views=views)
    batches = examples.batches(np.arange(views * len(paths)), 4, is_first_read=True)
    return sum(len(labels) for _, labels in batches)


def written(directory: Path, *contents: bytes) -> list[Path]:
    paths = [directory / f"{index}.jpg" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_every_undecodable_image_is_found(image_tree: Path, tmp_path: Path) -> None:
    valid = scan_split(image_tree / "train")
    whole = valid.paths[0].read_bytes()
    broken = tuple(written(tmp_path, whole[:300], whole[:30], b"", undecodable_picture()))
    mixed = ImageSet(valid.classes, valid.paths + broken, valid.labels + (0,) * 4, valid.digests + ("",) * 4)
    found = find_undecodable([valid, mixed])
    assert [image.path for image in found] == list(broken)
    assert [image.reason for image in found[:3]] == ["a truncated JPEG", "a truncated JPEG", "zero bytes"]
    assert "image data of 100 bytes" in found[3].reason


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    (found,) = find_undecodable([image_set(tmp_path / "gone.jpg")])
    assert found.path == tmp_path / "gone.jpg" and "No such file" in found.reason


def test_a_first_read_of_images_on_which_both_agree_gives_all_of_them(tmp_path: Path) -> None:
    paths = written(tmp_path, *[PHOTOGRAPH] * 3)
    assert read_first(paths) == 3
    assert read_first(paths, views=3) == 9


def test_a_first_read_fails_on_an_image_that_only_tensorflow_accepts(tmp_path: Path) -> None:
    """Image data that is longer than the header implies."""
    surplus = png((4, 3), pixels=bytes(13) * 5)
    assert decode(tf.constant(surplus)).shape == (3, 4, 3)
    paths = written(tmp_path, PHOTOGRAPH, surplus)
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_first(paths)
    assert [image.path for image in find_undecodable([image_set(*paths)])] == paths[1:]


@pytest.mark.parametrize("views", [1, 2])
def test_a_first_read_fails_on_an_image_that_both_decode_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    """As with a decoder that rounds otherwise: TensorFlow's faster inverse DCT."""
    fast = functools.partial(tf.io.decode_jpeg, channels=3, dct_method="INTEGER_FAST")
    monkeypatch.setattr("trainer.data.pipeline.decode", fast)
    monkeypatch.setattr(agreement, "decode", fast)
    paths = written(tmp_path, PHOTOGRAPH)
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_first(paths, views)
    (found,) = find_undecodable([image_set(*paths)])
    assert "different pixels" in found.reason
