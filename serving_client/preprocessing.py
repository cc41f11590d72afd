"""Turn an image into one row of a model's input, with Pillow and numpy alone.

`preprocess` decodes to RGB levels, resizes, and scales as the backbone's `preprocess_input` does. The trainer
does the same with TensorFlow and Keras. Resized levels agree with the trainer's to 0.01, and
`preprocess_input` agrees with Keras' to 1e-6; tests/test_parity.py checks both.
"""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving_client import decoding, image_format, resizing
from serving_client.errors import ImageError

ImageInput = Union[str, "os.PathLike[str]", bytes, Image.Image, "npt.NDArray[np.uint8]"]
"""A path, encoded bytes, a PIL image, or a uint8 RGB array (H, W, 3)."""

MODES = ("tf", "torch", "caffe", "none")
FORMATS = ("JPEG", "PNG", "BMP", "GIF")

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
    """

    height_px: int
    width_px: int
    mode: str
    resize_filter: str = "bilinear"

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
    levels = np.asarray(decode(image))
    resized = resizing.resize(levels, spec.height_px, spec.width_px, spec.resize_filter)
    return preprocess_input(resized, spec.mode)


def decode(image: ImageInput) -> Image.Image:
    """Decode any kind of image to RGB levels.

    Raises:
      ImageError: the image cannot be read or decoded.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(
                f"An image array must have dtype uint8 and shape (H, W, 3), RGB. Received: "
                f"{image.dtype} {image.shape}. Use predict() for preprocessed tensors."
            )
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _as_rgb(image)
    return _decode_bytes(read_bytes(image), display_name(image))


def encode(image: ImageInput) -> bytes:
    """Return the bytes for the signature `encoded_images`: the file's own, or a lossless PNG of the pixels.

    The bytes are decoded here once as a check. TensorFlow Serving batches several callers' rows, and an
    invalid image would fail all of them.

    Raises:
      ImageError: the image cannot be read or decoded.
    """
    if isinstance(image, (np.ndarray, Image.Image)):
        buffer = io.BytesIO()
        decode(image).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()
    data = read_bytes(image)
    _decode_bytes(data, display_name(image))
    return data


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
    except OSError as error:
        raise ImageError(f"{image}: cannot be read: {error.strerror}. Check the path.") from error


def _decode_bytes(data: bytes, name: str) -> Image.Image:
    try:
        return decoding.decode(data)
    except ImageError as error:
        expected = f"a valid {', '.join(image_format.FORMATS[:-1])} or {image_format.FORMATS[-1]}"
        raise ImageError(
            f"{name}: cannot be decoded. Expected: {expected}. Received: {error}. Replace the file."
        ) from error


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB as TensorFlow's decoders do.

    They drop alpha, except that transparent pixels of a GIF become black, and they drop the low byte of
    16-bit levels.
    """
    if image.format == "GIF":
        opaque = image.convert("RGBA")
        on_black = Image.new("RGB", image.size)
        on_black.paste(opaque, mask=opaque.getchannel("A"))
        return on_black
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def display_name(image: ImageInput) -> str:
    """Return the name of an image for messages: its path, or its kind."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return "image bytes" if isinstance(image, bytes) else f"{type(image).__name__}"
