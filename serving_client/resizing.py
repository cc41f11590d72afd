"""Resize images as `tf.image.resize` does, with numpy alone."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

FILTERS = ("bilinear", "nearest")

# Multiplications in one matrix product. OpenBLAS starts threads above 4 × 65,536 of them, and the caller
# already resizes several images in parallel.
_PRODUCT_SIZE = 250_000
# Output columns per matrix product. With 8, neighbouring triangles overlap enough to waste little work.
_COLUMNS_PER_BAND = 8


def resize(
    levels: npt.NDArray[np.uint8], height_px: int, width_px: int, resize_filter: str = "bilinear"
) -> npt.NDArray[np.float32]:
    """Resize an image as `tf.image.resize` does; "bilinear" includes antialiasing.

    The result is not rounded. Rounding to whole levels can change the predicted label, and Pillow rounds
    twice.

    Args:
      levels: uint8 (H, W, 3).
      resize_filter: one of FILTERS.
    Returns:
      float32 (height_px, width_px, 3), levels from 0 to 255.
    Raises:
      ValueError: the filter is unknown.
    """
    if resize_filter not in FILTERS:
        raise ValueError(f"resize_filter must be one of {', '.join(FILTERS)}. Received: {resize_filter!r}.")
    height, width, _ = levels.shape
    if (height, width) == (height_px, width_px):
        return levels.astype(np.float32)
    if resize_filter == "nearest":
        rows, columns = _nearest_pixels(height, height_px), _nearest_pixels(width, width_px)
        return levels[rows[:, np.newaxis], columns].astype(np.float32)
    return _resize_bilinear(levels, height_px, width_px)


def _resize_bilinear(levels: npt.NDArray[np.uint8], height_px: int, width_px: int) -> npt.NDArray[np.float32]:
    """Multiply the image by the weights of each side: first its rows, then its columns.

    Each output pixel depends on few input pixels, so the weight matrices are zero outside a diagonal band.
    The products run block by block along that band.
    """
    height, width, _ = levels.shape
    flat = levels.reshape(height, width * 3)
    taps = 2 * max(1, height / height_px) + 1
    rows_per_band = max(1, int((_PRODUCT_SIZE / (width * 3 * taps)) ** 0.5))
    fewer_rows = np.empty((height_px, width * 3), np.float32)
    for out, used, weights in _bands(height, height_px, rows_per_band):
        np.matmul(weights, flat[used].astype(np.float32), out=fewer_rows[out])
    resized = np.empty((height_px, width_px * 3), np.float32)
    for out, used, weights in _interleaved_bands(width, width_px):
        np.matmul(fewer_rows[:, used], weights, out=resized[:, out])
    return resized.reshape(height_px, width_px, 3)


_Bands = list[tuple[slice, slice, "npt.NDArray[np.float32]"]]


@functools.lru_cache(maxsize=32)
def _bands(size_px: int, resized_px: int, pixels_per_band: int) -> _Bands:
    """Return one side's weights in blocks: output pixels, the input pixels they depend on, and the weights.

    Source: ComputeSpansCore in tensorflow/core/kernels/image/scale_and_translate_op.cc with its triangle
    kernel, which is as wide as the reduction.
    """
    scale = size_px / resized_px
    radius = max(scale, 1.0)
    pixels = np.arange(size_px) + 0.5
    bands = []
    for start in range(0, resized_px, pixels_per_band):
        out = slice(start, min(start + pixels_per_band, resized_px))
        centres = (np.arange(out.start, out.stop) + 0.5) * scale
        used = slice(max(0, int(centres[0] - radius)), min(size_px, int(centres[-1] + radius) + 1))
        weights = np.maximum(0, 1 - np.abs(pixels[used] - centres[:, np.newaxis]) / radius)
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append((out, used, weights.astype(np.float32)))
    return bands


@functools.lru_cache(maxsize=256)
def _interleaved_bands(width: int, width_px: int) -> _Bands:
    """Return the blocks of weights for rows that interleave red, green and blue."""
    bands = []
    for out, used, weights in _bands(width, width_px, _COLUMNS_PER_BAND):
        rows, columns = weights.shape
        per_channel = np.zeros((columns, 3, rows, 3), np.float32)
        for channel in range(3):
            per_channel[:, channel, :, channel] = weights.T
        bands.append((_interleaved(out), _interleaved(used), per_channel.reshape(3 * columns, 3 * rows)))
    return bands


def _interleaved(pixels: slice) -> slice:
    return slice(3 * pixels.start, 3 * pixels.stop)


def _nearest_pixels(size_px: int, resized_px: int) -> npt.NDArray[np.intp]:
    """Return the input pixel for each output pixel of one side.

    Source: HalfPixelScalerForNN in tensorflow/core/util/image_resizer_state.h, which computes in float32.
    Pillow computes in double and differs at ties.
    """
    scale = np.float32(size_px) / np.float32(resized_px)
    centres = (np.arange(resized_px, dtype=np.float32) + np.float32(0.5)) * scale
    pixels: npt.NDArray[np.intp] = np.minimum(np.floor(centres).astype(np.intp), size_px - 1)
    return pixels
