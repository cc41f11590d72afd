import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from trainer.data.images import ImageSet, scan_split

from trainer.data.pipeline import ImageExamples, decode_and_resize, find_undecodable
from trainer.model.backbones import find_backbone


def encode(format_name: str, image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (40, 30), (250, 10, 10))
BLUE = Image.new("RGB", (40, 30), (10, 10, 250))


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(encode("JPEG", RED), id="JPEG"),
        pytest.param(encode("PNG", RED), id="PNG"),
        pytest.param(encode("BMP", RED), id="BMP"),
        pytest.param(encode("GIF", RED), id="GIF"),
        pytest.param(encode("GIF", RED, save_all=True, append_images=[BLUE]), id="animated GIF: first frame"),
    ],
)
def test_reads_each_format_as_rgb_levels(encoded: bytes) -> None:
    levels = decode_and_resize(tf.constant(encoded), 16).numpy()
    assert levels.shape == (16, 16, 3)
    assert levels.dtype == np.float32
    np.testing.assert_allclose(levels, np.broadcast_to([250, 10, 10], levels.shape), atol=4)


def test_grey_pictures_get_three_channels() -> None:
    encoded = encode("PNG", Image.new("L", (8, 8), 77))
    np.testing.assert_array_equal(decode_and_resize(tf.constant(encoded), 8), np.full((8, 8, 3), 77))


def image_set(tree: Path) -> ImageSet:
    return scan_split(tree / "train")


def test_batches_follow_the_order_that_is_asked_for(image_tree: Path) -> None:
    train = image_set(image_tree)
    examples = ImageExamples(train, find_backbone("mobilenetv2"), 32)
    order = np.random.default_rng(0).permutation(len(train))
    batches = list(examples.batches(order, 20).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [20, 20, 8]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), examples.labels[order])
    first = decode_and_resize(tf.io.read_file(str(train.paths[order[0]])), 32)
    np.testing.assert_allclose(batches[0][0][0], first / 127.5 - 1, atol=1e-5)


def test_undecodable_images_are_named_every_one(image_tree: Path, tmp_path: Path) -> None:
    good = image_set(image_tree)
    (tmp_path / "truncated.jpg").write_bytes(good.paths[0].read_bytes()[:300])
    (tmp_path / "header.jpg").write_bytes(good.paths[0].read_bytes()[:30])
    (tmp_path / "empty.png").write_bytes(b"")
    bad = tuple(sorted(tmp_path.iterdir()))
    mixed = ImageSet(good.classes, good.paths + bad, (*good.labels, 0, 0, 0), (*good.digests, "", "", ""))
    found = find_undecodable([good, mixed])
    assert [one.path for one in found] == list(bad)
    assert all(one.reason and "\n" not in one.reason for one in found)
