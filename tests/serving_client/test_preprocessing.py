import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving_client import ImageError, InputSpec, preprocess_input, preprocessing

SPEC = InputSpec(height_px=6, width_px=4, mode="tf")
LEVELS = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)


def png(levels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_every_kind_of_image_gives_the_same_row(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png(LEVELS))
    kinds: list[preprocessing.ImageInput] = [path, str(path), png(LEVELS), Image.fromarray(LEVELS), LEVELS]
    rows = [preprocessing.preprocess(image, SPEC) for image in kinds]
    for row in rows:
        assert row.shape == (6, 4, 3)
        assert row.dtype == np.float32
        assert row.min() >= -1 and row.max() <= 1
        np.testing.assert_array_equal(row, rows[0])


def test_every_kind_of_image_is_encoded_to_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png(LEVELS))
    for image in (path, str(path), png(LEVELS), Image.fromarray(LEVELS), LEVELS):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(preprocessing.encode(image)))), LEVELS)
    assert preprocessing.encode(path) == path.read_bytes()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("tf", [-1.0, 0.0, 1.0]),
        ("torch", [(0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
        ("caffe", [255 - 103.939, 127.5 - 116.779, 0 - 123.68]),
        ("none", [0.0, 127.5, 255.0]),
    ],
)
def test_preprocess_input_modes(mode: str, expected: list[float]) -> None:
    levels = np.array([[[0.0, 127.5, 255.0]]])
    np.testing.assert_allclose(preprocess_input(levels, mode)[0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(levels, [[[0.0, 127.5, 255.0]]])  # the caller's array is left alone


def test_preprocess_input_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="'tff'"):
        preprocess_input(LEVELS, "tff")


@pytest.mark.parametrize(
    ("image", "received"),
    [
        pytest.param("nowhere.jpg", "nowhere.jpg", id="missing file"),
        pytest.param(b"", "zero bytes", id="no bytes"),
        pytest.param(b"text", "4 bytes", id="text"),
        pytest.param(png(LEVELS)[:-40], "image bytes", id="truncated"),
        pytest.param(LEVELS.astype(np.float32), r"float32 \(9, 5, 3\)", id="float array"),
        pytest.param(LEVELS[..., 0], r"uint8 \(9, 5\)", id="grey array"),
        pytest.param(LEVELS[:0], r"uint8 \(0, 5, 3\)", id="empty array"),
        pytest.param(7, "int", id="number"),
        pytest.param(Path(__file__), "test_preprocessing.py", id="Python file"),
    ],
)
@pytest.mark.parametrize("read", [preprocessing.decode, preprocessing.encode])
def test_refuses_an_invalid_image_in_one_line_that_says_what_was_received(
    read: Callable[[object], object], image: object, received: str
) -> None:
    with pytest.raises(ImageError, match=received) as caught:
        read(image)
    assert "\n" not in str(caught.value)


def test_refuses_a_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # the image has 45
    with pytest.raises(ImageError):
        preprocessing.decode(png(LEVELS))
