"""Levels of any size → the model's size, as `tf.image.resize` computes it, in numpy alone."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

FILTERS = ("bilinear", "nearest")

# Numbers multiplied in one product: OpenBLAS takes more threads above 4 × 65,536, and images are
# resized in threads of their own already.
_PRODUCT = 250_000
# Pixels of a row in one product: as many as the triangles of so few pixels share.
_COLUMNS = 8


def resize(
    levels: npt.NDArray[np.uint8], height_px: int, width_px: int, resize_filter: str = "bilinear"
) -> npt.NDArray[np.float32]:
    """Resize as `tf.image.resize` does with the filter's name, antialiased if it is "bilinear".

    The result is not rounded: one whole level can flip a label, and Pillow rounds twice.

    Args:
      levels: uint8 (H, W, 3).
      resize_filter: one of FILTERS.
    Returns:
      float32 (height_px, width_px, 3), levels from 0 to 255.
    """
    height, width, _ = levels.shape
    if (height, width) == (height_px, width_px):
        return levels.astype(np.float32)
    if resize_filter == "nearest":
        rows, columns = _nearest(height, height_px), _nearest(width, width_px)
        return levels[rows[:, np.newaxis], columns].astype(np.float32)
    return _bilinear(levels, height_px, width_px)


def _bilinear(levels: npt.NDArray[np.uint8], height_px: int, width_px: int) -> npt.NDArray[np.float32]:
    """Multiply by each side's weights, which are zero but for a band: block by block along it."""
    height, width, _ = levels.shape
    flat = levels.reshape(height, width * 3)
    taps = 2 * max(1, height / height_px) + 1
    rows_at_once = max(1, int((_PRODUCT / (width * 3 * taps)) ** 0.5))
    narrow = np.empty((height_px, width * 3), np.float32)
    for out, used, weights in _bands(height, height_px, rows_at_once):
        np.matmul(weights, flat[used].astype(np.float32), out=narrow[out])
    resized = np.empty((height_px, width_px * 3), np.float32)
    for out, used, weights in _channel_bands(width, width_px):
        np.matmul(narrow[:, used], weights, out=resized[:, out])
    return resized.reshape(height_px, width_px, 3)


_Bands = list[tuple[slice, slice, "npt.NDArray[np.float32]"]]


@functools.lru_cache(maxsize=32)
def _bands(size_px: int, resized_px: int, at_once: int) -> _Bands:
    """Return, for so many resized pixels at once: which they are, of which they are made, how much of each.

    Source: ComputeSpansCore in tensorflow/core/kernels/image/scale_and_translate_op.cc, with its triangle
    kernel, as wide as the image is reduced.
    """
    scale = size_px / resized_px
    radius = max(scale, 1.0)
    pixels = np.arange(size_px) + 0.5
    bands = []
    for start in range(0, resized_px, at_once):
        out = slice(start, min(start + at_once, resized_px))
        centres = (np.arange(out.start, out.stop) + 0.5) * scale
        used = slice(max(0, int(centres[0] - radius)), min(size_px, int(centres[-1] + radius) + 1))
        weights = np.maximum(0, 1 - np.abs(pixels[used] - centres[:, np.newaxis]) / radius)
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append((out, used, weights.astype(np.float32)))
    return bands


@functools.lru_cache(maxsize=256)
def _channel_bands(width: int, width_px: int) -> _Bands:
    """Return the bands of rows in which red, green and blue take turns."""
    bands = []
    for out, used, weights in _bands(width, width_px, _COLUMNS):
        rows, columns = weights.shape
        of_channels = np.zeros((columns, 3, rows, 3), np.float32)
        for channel in range(3):
            of_channels[:, channel, :, channel] = weights.T
        bands.append((_of_channels(out), _of_channels(used), of_channels.reshape(3 * columns, 3 * rows)))
    return bands


def _of_channels(pixels: slice) -> slice:
    return slice(3 * pixels.start, 3 * pixels.stop)


def _nearest(size_px: int, resized_px: int) -> npt.NDArray[np.intp]:
    """Return which pixel of a side becomes which.

    Source: HalfPixelScalerForNN in tensorflow/core/util/image_resizer_state.h, in float32; Pillow computes
    in double, and differs at ties.
    """
    scale = np.float32(size_px) / np.float32(resized_px)
    centres = (np.arange(resized_px, dtype=np.float32) + np.float32(0.5)) * scale
    pixels: npt.NDArray[np.intp] = np.minimum(np.floor(centres).astype(np.intp), size_px - 1)
    return pixels
