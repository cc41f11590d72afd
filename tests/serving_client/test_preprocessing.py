import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from serving_client import ImageError, InputSpec, preprocess_input, preprocessing
from tests.exif_files import FORMATS, encode, stored_turned

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
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(preprocessing.encode(image, SPEC)))), LEVELS
        )
    assert preprocessing.encode(path, SPEC) == path.read_bytes()


@pytest.mark.parametrize("format_name", FORMATS)
def test_images_are_turned_only_for_versions_that_say_so(format_name: str, tmp_path: Path) -> None:
    file = stored_turned(Image.fromarray(LEVELS), format_name, 6)
    path = tmp_path / "picture"
    path.write_bytes(file)
    as_stored = Image.open(io.BytesIO(file)).convert("RGB")
    for turns in (True, False):
        spec = InputSpec(9, 9, "none", exif_orientation=turns)
        shown = np.asarray(ImageOps.exif_transpose(as_stored) if turns else as_stored)
        for image in (path, file, Image.open(path), Image.open(path).convert("RGB")):
            np.testing.assert_array_equal(
                preprocessing.preprocess(image, spec), preprocessing.preprocess(shown, spec)
            )
        copy = Image.open(io.BytesIO(preprocessing.encode(Image.open(path), spec)))
        np.testing.assert_array_equal(copy, shown)
        assert not copy.getexif(), "the server would turn the copy again"
        assert preprocessing.encode(path, spec) == file, "the server turns the file itself"


def test_an_image_that_the_caller_has_turned_is_left_as_it_is() -> None:
    file = stored_turned(Image.fromarray(LEVELS), "PNG", 6)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    for image in (turned, np.asarray(turned)):
        np.testing.assert_array_equal(preprocessing.decode(image, exif_orientation=True), LEVELS)


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
@pytest.mark.parametrize("read", [preprocessing.preprocess, preprocessing.encode])
def test_refuses_an_invalid_image_in_one_line_that_says_what_was_received(
    read: Callable[[Any, InputSpec], object], image: object, received: str
) -> None:
    with pytest.raises(ImageError, match=received) as caught:
        read(image, SPEC)
    assert "\n" not in str(caught.value)


def truncated() -> Image.Image:
    return Image.open(io.BytesIO(encode(Image.fromarray(LEVELS), "JPEG")[:-30]))


def closed() -> Image.Image:
    image = Image.fromarray(LEVELS)
    image.close()
    return image


def closed_before_it_was_loaded() -> Image.Image:
    image = Image.open(io.BytesIO(png(LEVELS)))
    image.close()
    return image


class FailingImage(Image.Image):
    """A reader of another package, which fails in a way of its own."""

    def load(self) -> Any:
        raise KeyError("tile")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(truncated, id="truncated"),
        pytest.param(closed, id="closed"),
        pytest.param(closed_before_it_was_loaded, id="closed before it was loaded"),
        pytest.param(FailingImage, id="a reader that fails in its own way"),
        pytest.param(Image.Image, id="without pixels"),
        pytest.param(lambda: Image.new("RGB", (0, 0)), id="0 × 0"),
        pytest.param(lambda: Image.new("L", (0, 7)), id="0 × 7"),
        pytest.param(lambda: Image.new("F", (5, 5)), id="float"),
        pytest.param(lambda: Image.new("I", (5, 5)), id="32 bits"),
        pytest.param(lambda: np.zeros((0, 0, 3), np.uint8), id="0 × 0 array"),
        pytest.param(lambda: "a\0b.jpg", id="path with NUL"),
        pytest.param(lambda: Path("a\0b.jpg"), id="Path with NUL"),
        pytest.param(lambda: "a\udcff" * 3000, id="path that is too long"),
        pytest.param(lambda: Path(__file__).parent, id="folder"),
        pytest.param(lambda: "", id="empty path"),
        pytest.param(lambda: None, id="None"),
    ],
)
@pytest.mark.parametrize("read", [preprocessing.preprocess, preprocessing.encode])
def test_an_image_that_cannot_be_read_is_always_an_image_error(
    read: Callable[[Any, InputSpec], object], make: Callable[[], Any]
) -> None:
    with pytest.raises(ImageError) as caught:
        read(make(), InputSpec(8, 8, "tf", exif_orientation=True))
    assert "\n" not in str(caught.value)


def palette(transparency: int | bytes) -> Image.Image:
    image = Image.fromarray(LEVELS).quantize(8)
    image.info["transparency"] = transparency
    return image


GREY = Image.fromarray(LEVELS).convert("L")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(GREY.convert("1"), GREY.convert("1"), id="1"),
        pytest.param(GREY, GREY, id="L"),
        pytest.param(GREY.convert("LA"), GREY, id="LA"),
        pytest.param(GREY.convert("LA").convert("La"), GREY, id="La"),
        pytest.param(Image.fromarray(LEVELS).convert("RGBA").convert("RGBa"), None, id="RGBa"),
        pytest.param(Image.fromarray(LEVELS).convert("RGBX"), None, id="RGBX"),
        pytest.param(Image.fromarray(np.asarray(GREY, np.uint16) * 256 + 255), GREY, id="I;16"),
        pytest.param(palette(3), palette(3).convert("RGBA"), id="P with a transparent colour"),
        pytest.param(palette(b"\0\7"), palette(3).convert("RGBA"), id="P with alpha"),
        pytest.param(palette(3).convert("PA"), palette(3).convert("RGBA"), id="PA"),
        pytest.param(Image.new("CMYK", (5, 9), (0, 255, 255, 0)), Image.new("RGB", (5, 9), "red"), id="CMYK"),
    ],
)
def test_images_of_every_mode_become_rgb(image: Image.Image, expected: Image.Image | None) -> None:
    """Alpha is dropped, and the low byte of 16 bits."""
    levels = LEVELS if expected is None else np.asarray(expected.convert("RGB"))
    np.testing.assert_array_equal(preprocessing.decode(image), levels)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV"])
def test_images_in_other_colour_spaces_are_converted(mode: str) -> None:
    image = Image.new("RGB", (4, 3), (200, 30, 60))
    other = Image.new(mode, (4, 3)) if mode == "LAB" else image.convert(mode)
    assert preprocessing.preprocess(other, InputSpec(3, 4, "none")).shape == (3, 4, 3)


@pytest.mark.parametrize("pixels", [20, 30])  # the image has 45: Pillow refuses it, or warns
def test_refuses_a_decompression_bomb(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(ImageError):
        preprocessing.decode(png(LEVELS))
