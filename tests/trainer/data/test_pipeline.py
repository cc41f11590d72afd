from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import png, undecodable_picture
from trainer.data.decoding import decode_and_resize
from trainer.data.folders import scan_split
from trainer.data.pipeline import ImageExamples, read_every_image
from trainer.model import find_backbone


def test_batches_have_the_given_order(image_tree: Path) -> None:
    train = scan_split(image_tree / "train")
    examples = ImageExamples(train, find_backbone("mobilenetv2"), 32)
    order = np.random.default_rng(0).permutation(len(train))
    batches = list(examples.batches(order, 20).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [20, 20, 8]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), examples.labels[order])
    first = decode_and_resize(tf.io.read_file(str(train.paths[order[0]])), 32)
    np.testing.assert_allclose(batches[0][0][0], first / 127.5 - 1, atol=1e-5)


def test_preprocessing_swaps_the_channels_of_a_caffe_backbone(image_tree: Path) -> None:
    one = scan_split(image_tree / "train").subset([0])
    (images, _), *_ = ImageExamples(one, find_backbone("vgg16"), 32).batches(np.arange(1), 1)
    levels = decode_and_resize(tf.io.read_file(str(one.paths[0])), 32)
    blue_green_red = levels.numpy()[..., ::-1] - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(images[0], blue_green_red, atol=1e-3)


def test_reading_every_image_fails_on_one_that_cannot_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "whole.png").write_bytes(png())
    (tmp_path / "b" / "undecodable.png").write_bytes(undecodable_picture())
    examples = ImageExamples(scan_split(tmp_path), find_backbone("mobilenetv2"), 32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_every_image([examples])
