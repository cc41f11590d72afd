import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.data.decoding import decode_and_resize, decode_or_flag


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


def test_grey_images_get_three_channels() -> None:
    encoded = encode("PNG", Image.new("L", (8, 8), 77))
    np.testing.assert_array_equal(decode_and_resize(tf.constant(encoded), 8), np.full((8, 8, 3), 77))


def test_the_filters_are_antialiased_bilinear_and_nearest() -> None:
    """Every fourth column is white. Antialiasing averages all columns, other filters miss most of them."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::4] = 255
    encoded = tf.constant(encode("PNG", Image.fromarray(stripes)))
    assert np.abs(decode_and_resize(encoded, 8, "bilinear").numpy()[:, 2:6] - 255 / 4).max() < 2
    assert set(decode_and_resize(encoded, 8, "nearest").numpy().flat) <= {0, 255}


def test_an_undecodable_image_is_black_and_flagged() -> None:
    for valid in (True, False):
        encoded = encode("JPEG", RED) if valid else encode("JPEG", RED)[:300]
        levels, decoded = decode_or_flag(tf.constant(encoded), 16)
        assert levels.shape == (16, 16, 3)
        assert bool(decoded) == valid == bool(levels.numpy().any())
