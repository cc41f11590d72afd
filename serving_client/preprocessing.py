"""Image → RGB levels → `preprocess_input`, in Pillow and numpy.

The other half of `trainer.pipeline.decode_and_resize` and of keras.applications' preprocess_input:
the two agree to 0.01 level before, and to 1e-6 within preprocess_input (tests/test_parity.py).
"""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Union

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from serving_client import resizing
from serving_client.errors import ImageError

ImageInput = Union[str, "os.PathLike[str]", bytes, Image.Image, "npt.NDArray[np.uint8]"]
"""A path, encoded bytes, a PIL image, or an RGB array uint8 (H, W, 3)."""

MODES = ("tf", "torch", "caffe", "none")
FORMATS = ("JPEG", "PNG", "BMP", "GIF")

# float32, as Keras computes: in float64 the results would be one rounding away from its own.
_TORCH_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_TORCH_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a model takes: float32 (N, height_px, width_px, 3), preprocessed in `mode`.

    `resize_filter` brings an image to that size: one of resizing.FILTERS.
    """

    height_px: int
    width_px: int
    mode: str
    resize_filter: str = "bilinear"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one row."""
        return self.height_px, self.width_px, 3


def preprocess_input(levels: npt.ArrayLike, mode: str) -> npt.NDArray[np.float32]:
    """Scale RGB levels as the backbone's own `preprocess_input` does.

    Args:
      levels: (..., 3), RGB, from 0 to 255, any real dtype; left unchanged.
      mode: "tf": to [-1, 1]. "torch": to [0, 1], then each channel normalized with ImageNet's mean
        and standard deviation. "caffe": RGB to BGR, ImageNet's mean subtracted. "none": as they are,
        for networks that begin with a scaling layer of their own.
    Returns:
      float32 of the same shape.
    Raises:
      ValueError: unknown mode.
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
      ImageError: it cannot be read or decoded.
    """
    levels = np.asarray(decode(image))
    resized = resizing.resize(levels, spec.height_px, spec.width_px, spec.resize_filter)
    return preprocess_input(resized, spec.mode)


def decode(image: ImageInput) -> Image.Image:
    """Read any kind of image as RGB levels.

    Raises:
      ImageError: names the image, what was expected and what came.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(
                f"An array must be RGB levels of dtype uint8 and shape (H, W, 3). Received: "
                f"{image.dtype} {image.shape}. Use predict() for a tensor that is preprocessed already."
            )
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _as_rgb(image)
    return _decode_bytes(read_bytes(image), named(image))


def encode(image: ImageInput) -> bytes:
    """Return bytes for the signature `encoded_images`: a file's own, or a lossless PNG of the pixels.

    The bytes are decoded once here, because a bad image would fail every request that TensorFlow
    Serving puts into the same batch.

    Raises:
      ImageError: it cannot be read or decoded.
    """
    if isinstance(image, (np.ndarray, Image.Image)):
        buffer = io.BytesIO()
        decode(image).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()
    data = read_bytes(image)
    _decode_bytes(data, named(image))
    return data


def read_bytes(image: str | os.PathLike[str] | bytes) -> bytes:
    """Return encoded bytes as they are, or a file's content.

    Raises:
      ImageError: the file cannot be read, or `image` is of a type that is no image.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, (str, os.PathLike)):
        raise ImageError(
            f"An image must be a path, bytes, a PIL image or a uint8 array. Received: {type(image).__name__}."
        )
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise ImageError(f"{image}: cannot be read: {error.strerror}.") from error


def _decode_bytes(data: bytes, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if reason := _read_otherwise_by_tensorflow(image, data):
                raise ImageError(f"{name}: {reason}. Save it as PNG.")
            if image.format == "PNG":
                # Pillow reads on over a damaged chunk, and TensorFlow does not.
                image.verify()
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            return _as_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the BytesIO's address where it knows no format: no help to a reader.
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(
            f"{name}: cannot be decoded as {', '.join(FORMATS)} ({len(data)} bytes: {reason})."
        ) from error


def _read_otherwise_by_tensorflow(image: ImageFile.ImageFile, data: bytes) -> str | None:
    """Name what TensorFlow's decoders would read as another picture, or not at all."""
    if image.format == "BMP":
        bits = int.from_bytes(data[28:30], "little")
        if image.mode in ("1", "P") or bits not in (8, 24, 32):
            return "a BMP must have 24 or 32 bits, or 8 bits of grey"
    if image.format == "GIF" and image.tile and image.tile[0][1] != (0, 0, *image.size):
        return "the first frame of a GIF must fill its canvas"
    return None


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert as TensorFlow's decoders do.

    Alpha is dropped, but a GIF's transparent pixels are black; 16-bit levels lose their low byte.
    """
    if image.format == "GIF":
        opaque = image.convert("RGBA")
        on_black = Image.new("RGB", image.size)
        on_black.paste(opaque, mask=opaque.getchannel("A"))
        return on_black
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def named(image: ImageInput) -> str:
    """Return what an image is called in messages and tables."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return "image bytes" if isinstance(image, bytes) else f"{type(image).__name__}"
