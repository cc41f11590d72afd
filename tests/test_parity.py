"""Training and serving see the same pixels: Pillow and numpy in the client, TensorFlow in the graph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from serving_client import Client, ImageError, InputSpec, preprocess_input, preprocessing, resizing
from serving_client.preprocessing import ImageInput, preprocess
from serving_client.protocol import Via
from tests.exif_files import FORMATS, stored_turned
from tests.trainer.model.test_backbones import MODULES
from trainer import run
from trainer.config import ResizeFilter
from trainer.data.decoding import decode_and_resize
from trainer.model.backbones import backbone_names, find_backbone


def photograph(width: int = 200, height: int = 150) -> Image.Image:
    """Return smooth colours with some noise, so that differences in JPEG decoding and resizing show."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    levels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((levels + rng.integers(-12, 12, levels.shape)).clip(0, 255).astype(np.uint8))


def encode(format_name: str, image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **options)
    return buffer.getvalue()


def in_the_graph(picture: bytes, size_px: int = 96, resize_filter: ResizeFilter = "bilinear") -> np.ndarray:
    levels: np.ndarray = decode_and_resize(tf.constant(picture), size_px, resize_filter).numpy()
    return levels


def in_the_client(image: ImageInput, size_px: int = 96, resize_filter: str = "bilinear") -> np.ndarray:
    """Return levels as `in_the_graph` does; "none" leaves them as they are."""
    return preprocess(image, InputSpec(size_px, size_px, "none", resize_filter, exif_orientation=True))


def with_alpha() -> Image.Image:
    image = photograph().convert("RGBA")
    image.putalpha(image.convert("L"))
    return image


def animation(**options: Any) -> bytes:
    return encode("WEBP", photograph(), save_all=True, append_images=[photograph().rotate(90)], **options)


def animation_with_alpha(**options: Any) -> bytes:
    frames = [with_alpha().rotate(90)]
    return encode("WEBP", with_alpha(), save_all=True, append_images=frames, **options)


def png_with_16_bits() -> bytes:
    levels = np.random.default_rng(0).integers(0, 65536, (30, 40, 3), dtype=np.uint16)
    return bytes(tf.io.encode_png(levels).numpy())


PICTURES = {
    "JPEG": encode("JPEG", photograph()),
    "JPEG low quality": encode("JPEG", photograph(), quality=20),
    "JPEG progressive": encode("JPEG", photograph(), progressive=True),
    "JPEG without chroma subsampling": encode("JPEG", photograph(), subsampling=0),
    "JPEG grey": encode("JPEG", photograph().convert("L")),
    "JPEG CMYK": encode("JPEG", photograph().convert("CMYK")),
    "PNG": encode("PNG", photograph()),
    "PNG alpha": encode("PNG", with_alpha()),
    "PNG grey": encode("PNG", photograph().convert("L")),
    "PNG grey alpha": encode("PNG", photograph().convert("LA")),
    "PNG 1 bit": encode("PNG", photograph().convert("1")),
    "PNG 16 bit grey": encode("PNG", Image.fromarray(np.arange(30000, dtype=np.uint16).reshape(150, 200))),
    "PNG 16 bit colour": png_with_16_bits(),
    "PNG palette": encode("PNG", photograph().quantize(64)),
    "PNG palette with transparency": encode("PNG", photograph().quantize(64), transparency=3),
    "BMP": encode("BMP", photograph()),
    "BMP grey": encode("BMP", photograph().convert("L")),
    "BMP alpha": encode("BMP", with_alpha()),
    "GIF": encode("GIF", photograph()),
    "GIF transparent": encode("GIF", photograph().quantize(16), transparency=5),
    "GIF animated": encode("GIF", photograph(), save_all=True, append_images=[photograph().rotate(90)]),
    "WebP": encode("WEBP", photograph()),
    "WebP low quality": encode("WEBP", photograph(), quality=20),
    "WebP of odd size": encode("WEBP", photograph(201, 151)),
    "WebP grey": encode("WEBP", photograph().convert("L")),
    "WebP alpha": encode("WEBP", with_alpha()),
    "WebP lossless": encode("WEBP", photograph(), lossless=True),
    "WebP lossless alpha": encode("WEBP", with_alpha(), lossless=True),
    "WebP lossless alpha, colours of transparent pixels kept": encode(
        "WEBP", with_alpha(), lossless=True, exact=True
    ),
    "WebP lossless palette": encode("WEBP", photograph().quantize(16), lossless=True),
    "WebP animated": animation(),
    "WebP lossless animated": animation(lossless=True),
    "WebP alpha animated": animation_with_alpha(),
    "WebP lossless alpha animated": animation_with_alpha(lossless=True),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_decoded_and_resized_levels_agree(picture: bytes) -> None:
    np.testing.assert_allclose(in_the_client(picture), in_the_graph(picture), rtol=0, atol=0.01)


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_an_opened_picture_gives_the_levels_of_its_file(picture: bytes) -> None:
    opened = Image.open(io.BytesIO(picture))
    np.testing.assert_array_equal(in_the_client(opened), in_the_client(picture))
    lossless = preprocessing.encode(opened, InputSpec(96, 96, "none", exif_orientation=True))
    np.testing.assert_array_equal(in_the_client(lossless), in_the_client(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_picture_stored_in_any_orientation_gives_the_levels_of_the_upright_one(
    format_name: str, orientation: int
) -> None:
    """An upright JPEG would have other blocks, so for JPEG the file's own pixels are turned instead."""
    for upright in (photograph(201, 151), photograph(90, 120)):
        stored = stored_turned(upright, format_name, orientation)
        if format_name == "JPEG":
            pixels = Image.open(io.BytesIO(stored))
            upright = ImageOps.exif_transpose(pixels)
        expected = in_the_client(np.asarray(upright))
        spec = InputSpec(96, 96, "none", exif_orientation=True)
        for picture in (
            stored,
            Image.open(io.BytesIO(stored)),
            Image.open(io.BytesIO(stored)).convert("RGBA"),
        ):
            np.testing.assert_array_equal(in_the_client(picture), expected)
            encoded = preprocessing.encode(picture, spec)
            np.testing.assert_array_equal(in_the_client(encoded), expected)
            np.testing.assert_array_equal(in_the_graph(encoded), in_the_graph(encode("PNG", upright)))
            np.testing.assert_allclose(in_the_graph(encoded), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (96, 96), (95, 97), (2000, 30), (640, 480)])
def test_resizing_agrees_from_any_size(size: tuple[int, int]) -> None:
    picture = encode("PNG", photograph(*size))
    np.testing.assert_allclose(in_the_client(picture), in_the_graph(picture), rtol=0, atol=0.01)


@pytest.mark.parametrize("resize_filter", resizing.FILTERS)
def test_every_filter_resizes_alike(resize_filter: ResizeFilter) -> None:
    picture = encode("PNG", photograph())
    for size_px in (8, 96, 299):
        graph = in_the_graph(picture, size_px, resize_filter)
        np.testing.assert_allclose(in_the_client(picture, size_px, resize_filter), graph, rtol=0, atol=0.01)


def test_both_sides_have_the_same_filters_and_refuse_others() -> None:
    assert set(resizing.FILTERS) == set(get_args(ResizeFilter))
    picture: Any = encode("PNG", photograph(8, 8))
    other: Any = "bicubic"
    for resize in (in_the_graph, in_the_client):
        for size_px in (8, 9):
            with pytest.raises(ValueError, match="bilinear, nearest.*'bicubic'"):
                resize(picture, size_px, other)


@pytest.fixture(scope="module")
def pictures_of_many_sizes() -> list[bytes]:
    """Noise, where every pixel differs from the next, in BMP files, which are quick to write and read."""
    sizes = [(2, height) for height in range(1, 700, 37)]
    sizes += [(1, 1), (1, 50), (3, 2), (2000, 30), (640, 480), (4000, 3000)]
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    return [encode("BMP", Image.fromarray(array)) for array in levels]


@pytest.mark.parametrize("size_px", [8, 95, 96, 150, 299])
def test_the_nearest_filter_picks_the_same_pixels(pictures_of_many_sizes: list[bytes], size_px: int) -> None:
    """Sizes from 1 to 4000 pixels, because rounding decides which of two equally near pixels is picked."""
    for picture in pictures_of_many_sizes:
        graph = in_the_graph(picture, size_px, "nearest")
        np.testing.assert_array_equal(in_the_client(picture, size_px, "nearest"), graph)


@pytest.mark.parametrize("name", backbone_names())
def test_preprocess_input_in_numpy_equals_keras_on_all_levels(name: str) -> None:
    levels = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1)
    levels = np.concatenate([levels, levels[..., ::-1, :1]], -1).astype(np.uint8)
    keras_own = getattr(keras.applications, MODULES[name]).preprocess_input
    np.testing.assert_allclose(
        preprocess_input(levels, find_backbone(name).mode),
        keras_own(levels.astype(np.float32)),
        rtol=0,
        atol=1e-6,
    )


def test_the_transparent_gif_has_transparent_pixels() -> None:
    with Image.open(io.BytesIO(PICTURES["GIF transparent"])) as image:
        assert image.convert("RGBA").getchannel("A").getextrema() == (0, 255)


def gif_with_a_smaller_first_frame() -> bytes:
    data = bytearray(encode("GIF", photograph()))
    data[6:8] = (300).to_bytes(2, "little")  # the canvas's width
    return bytes(data)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(
            encode("BMP", photograph().quantize(64)), id="BMP palette, whose indices become grey levels"
        ),
        pytest.param(encode("BMP", photograph().convert("1")), id="BMP 1 bit"),
        pytest.param(gif_with_a_smaller_first_frame(), id="GIF with a smaller first frame"),
    ],
)
def test_files_that_tensorflow_reads_differently_are_rejected_by_format(picture: bytes) -> None:
    for read in (preprocessing.preprocess, preprocessing.encode):
        with pytest.raises(ImageError, match="(BMP|GIF).*PNG"):
            read(picture, InputSpec(8, 8, "tf"))


def test_the_client_rejects_a_damaged_png_that_only_the_graph_would_reject() -> None:
    """Pillow by default ignores a wrong checksum after the pixels. TensorFlow does not."""
    damaged = bytearray(encode("PNG", photograph(40, 30)))
    checksum = damaged.index(b"IEND") - 5  # the last byte before IEND's length
    damaged[checksum] ^= 0x55
    with Image.open(io.BytesIO(damaged)) as image:
        image.load()
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_resize(tf.constant(bytes(damaged)), 8)
    with pytest.raises(ImageError):
        preprocessing.encode(bytes(damaged), InputSpec(8, 8, "tf"))


def validation_paths(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("validation/*/*.jpg"))


def test_both_request_types_return_the_same_labels_and_probabilities(
    client: Client, image_tree: Path
) -> None:
    paths = validation_paths(image_tree)
    by_images, by_encoded = (client.classify(paths, top_k=6, via=via) for via in ("images", "encoded"))
    for from_images, from_encoded in zip(by_images, by_encoded, strict=True):
        assert from_images.label == from_encoded.label
        left, right = (
            {score.label: score.probability for score in prediction.scores}
            for prediction in (from_images, from_encoded)
        )
        assert all(abs(left[label] - right[label]) <= 1e-4 for label in left)


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_the_client_gets_the_accuracy_that_the_trainer_reported(
    client: Client, image_tree: Path, published: run.Published, via: Via
) -> None:
    paths = validation_paths(image_tree)
    predictions = client.classify(paths, via=via)
    correct = sum(p.label == path.parent.name for p, path in zip(predictions, paths, strict=True))
    assert correct == published.metrics["validation"].correct
    assert correct == client.describe().raw["metrics"]["validation"]["correct"]
