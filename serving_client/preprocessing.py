"""Turn an image into one row of a model's input, with Pillow and numpy alone.

`preprocess` decodes to RGB levels, resizes, and scales as the backbone's `preprocess_input` does. The trainer
does the same with TensorFlow and Keras. Resized levels agree with the trainer's to 0.01, and
`preprocess_input` agrees with Keras' to 1e-6; tests/test_parity.py checks both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Union

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from serving_client import resizing
from serving_client.errors import ImageError
from serving_client.formats import decoding, inspection
from serving_client.formats.heif import heif_format, open_heif, why_unsupported
from serving_client.formats.orientation import orientation_in_exif, read_orientation, turn_upright

ImageInput = Union[str, "os.PathLike[str]", bytes, Image.Image, "npt.NDArray[np.uint8]"]
"""A path, encoded bytes, a PIL image, or a uint8 RGB array (H, W, 3)."""

MODES = ("tf", "torch", "caffe", "none")
FORMAT_NAMES = "JPEG, PNG, BMP, GIF, WebP, HEIC or AVIF"

# Keras computes in float32. float64 would round differently.
_TORCH_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_TORCH_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """A model's input: float32 (N, height_px, width_px, 3), RGB or BGR as `mode` says.

    Attributes:
      mode: how `preprocess_input` scales levels, one of MODES.
      resize_filter: how images are brought to this size, one of resizing.FILTERS.
      exif_orientation: whether images are turned upright first. Versions of release 0.1.0 do not.
    """

    height_px: int
    width_px: int
    mode: str
    resize_filter: str = "bilinear"
    exif_orientation: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one row: (height_px, width_px, 3)."""
        return self.height_px, self.width_px, 3


def preprocess_input(levels: npt.ArrayLike, mode: str) -> npt.NDArray[np.float32]:
    """Scale RGB levels as the backbone's own `preprocess_input` does.

    Args:
      levels: (..., 3), RGB, from 0 to 255, any real dtype. The array is not modified.
      mode: "tf" scales to [-1, 1]. "torch" scales to [0, 1], then normalizes each channel with ImageNet's
        mean and standard deviation. "caffe" converts RGB to BGR and subtracts ImageNet's mean. "none" leaves
        levels unchanged, for networks whose first layer scales them.
    Returns:
      float32 of the same shape.
    Raises:
      ValueError: the mode is unknown.
    Source: keras.applications imagenet_utils `_preprocess_numpy_input`.
    """
    scaled = np.array(levels, dtype=np.float32)
    if mode == "tf":
        scaled /= 127.5
        scaled -= 1.0
    elif mode == "torch":
        scaled /= 255.0
        scaled -= _TORCH_MEAN
        scaled /= _TORCH_STD
    elif mode == "caffe":
        scaled = np.ascontiguousarray(scaled[..., ::-1])
        scaled -= _CAFFE_MEAN_BGR
    elif mode != "none":
        raise ValueError(f"mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
    return scaled


def preprocess(image: ImageInput, spec: InputSpec) -> npt.NDArray[np.float32]:
    """Turn one image into one row of a model's input.

    Returns:
      float32 (height_px, width_px, 3), in the range of `spec.mode`.
    Raises:
      ImageError: the image cannot be read or decoded.
    """
    levels = np.asarray(decode(image, exif_orientation=spec.exif_orientation))
    resized = resizing.resize(levels, spec.height_px, spec.width_px, spec.resize_filter)
    return preprocess_input(resized, spec.mode)


def decode(image: ImageInput, *, exif_orientation: bool = False) -> Image.Image:
    """Decode any kind of image to RGB levels.

    Args:
      exif_orientation: turn the image upright by its EXIF orientation. A PIL image has one if it carries Exif
        data: as `Image.open` returns it, and after `convert`, `crop` or `resize`, but not after
        `ImageOps.exif_transpose`. An array has none. HEIC and AVIF images are always upright.
    Raises:
      ImageError: the image cannot be read or decoded.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(
                f"An image array must have dtype uint8 and shape (H, W, 3), RGB. Received: "
                f"{image.dtype} {image.shape}. Use predict() for preprocessed tensors."
            )
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        return _decode_pil(image, exif_orientation=exif_orientation)
    return _decode_bytes(read_bytes(image), display_name(image), exif_orientation=exif_orientation)


def encode(image: ImageInput, spec: InputSpec) -> bytes:
    """Return the bytes for the signature `encoded_images`.

    A file goes unchanged, because the signature itself turns it if `spec` says so. HEIC, AVIF, PIL images and
    arrays become a PNG of the upright pixels, without Exif data.

    The bytes are decoded here once as a check. TensorFlow Serving batches several callers' rows, and an
    invalid image would fail all of them.

    Raises:
      ImageError: the image cannot be read or decoded.
    """
    if isinstance(image, (np.ndarray, Image.Image)):
        return to_png(decode(image, exif_orientation=spec.exif_orientation))
    data = read_bytes(image)
    decoded = _decode_bytes(data, display_name(image), exif_orientation=False)
    return to_png(decoded) if heif_format(data) else data


def read_bytes(image: str | os.PathLike[str] | bytes) -> bytes:
    """Return a file's content; bytes are returned unchanged.

    Raises:
      ImageError: the file cannot be read, or `image` has an unsupported type.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, (str, os.PathLike)):
        raise ImageError(
            f"An image must be a path, bytes, a PIL image or a uint8 array. Received: {type(image).__name__}."
        )
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError, TypeError) as error:  # ValueError: a NUL; TypeError: a path in bytes
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ImageError(f"{display_name(image)}: cannot be read: {reason}. Check the path.") from error


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height of an image file, in pixels, from its header alone.

    Raises:
      ImageError: the bytes are not a valid image, or of a format that needs another package.
    """
    if heif_format(data):
        with _explain_errors("The image cannot be read"), open_heif(data) as image:
            return image.size
    contents = inspection.inspect(data)
    return contents.width_px, contents.height_px


def _decode_bytes(data: bytes, name: str, *, exif_orientation: bool) -> Image.Image:
    if heif_format(data):
        if reason := why_unsupported(data):
            raise ImageError(f"{name}: {reason}")
        with _explain_errors(f"{name}: cannot be decoded. Received: {len(data)} bytes"):
            with open_heif(data) as image:
                levels = _as_rgb(image)
            return turn_upright(levels, _orientation_of(image))
    try:
        levels = decoding.decode(data)
    except ImageError as error:
        raise ImageError(
            f"{name}: cannot be decoded. Expected: a valid {FORMAT_NAMES}. Received: {error}. "
            "Replace the file."
        ) from error
    return turn_upright(levels, read_orientation(data)) if exif_orientation else levels


def _decode_pil(image: Image.Image, *, exif_orientation: bool) -> Image.Image:
    with _explain_errors(
        f"A PIL image cannot be decoded. Expected: an open image with at least one pixel. Received: "
        f"{type(image).__name__}"
    ):
        image.load()  # of a file: this may fail, and a PNG may have its Exif data behind the pixels
        if 0 in image.size:
            raise ValueError(f"{image.width} × {image.height} pixels")
        levels = _as_rgb(image)
        return turn_upright(levels, _orientation_of(image)) if exif_orientation else levels


def _orientation_of(image: Image.Image) -> int:
    """Return the orientation in the Exif data that a PIL image carries; 1 if it has none."""
    exif = image.info.get("exif")
    return orientation_in_exif(exif) if isinstance(exif, bytes) else 1


@contextlib.contextmanager
def _explain_errors(failure: str) -> Iterator[None]:
    """Turn whatever Pillow raises in the block into an ImageError: the failure, then the reason."""
    try:
        yield
    except ImageError:
        raise
    # Pillow's decoders raise errors of many types: OSError, ValueError, SyntaxError, struct.error, KeyError,
    # EOFError, zlib.error, MemoryError, DecompressionBombError, and its warnings where those are errors.
    except Exception as error:
        # For an unknown format, Pillow's message holds the BytesIO's address, which helps nobody.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{failure} ({reason}).") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB as TensorFlow's decoders do.

    They drop alpha, except that transparent pixels of a GIF become black, and they drop the low byte of
    16-bit levels.

    Raises:
      ValueError: levels of 32 bits, of which nobody knows what is white.
    """
    if image.format == "GIF":
        opaque = image.convert("RGBA")
        on_black = Image.new("RGB", image.size)
        on_black.paste(opaque, mask=opaque.getchannel("A"))
        return on_black
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r}, whose levels have no fixed range: convert it to 'L' or 'RGB'")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    # Pillow converts these to RGB only with a warning, or not at all.
    by_way_of = {"P": "RGBA", "La": "LA"}.get(image.mode)
    return (image.convert(by_way_of) if by_way_of else image).convert("RGB")


def to_png(image: Image.Image) -> bytes:
    """Return a decoded image's pixels as a PNG file, without the metadata that it carries."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def display_name(image: ImageInput) -> str:
    """Return the name of an image for messages: its path, or its kind."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return "image bytes" if isinstance(image, bytes) else f"{type(image).__name__}"
