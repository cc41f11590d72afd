"""Pictures whose class is their colour, so that the right label is known without a trained network."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

# No two of them are alike with the channels reversed, or with the scaling of another preprocessing mode.
COLOURS = {
    "fish": (30, 60, 220),
    "flower": (230, 40, 180),
    "house": (200, 30, 30),
    "moon": (240, 240, 240),
    "sun": (250, 220, 20),
    "tree": (20, 150, 40),
}
CLASSES = tuple(COLOURS)
# A class of which there is no picture.
UNSEEN = "boat"
_UNSEEN_COLOUR = (110, 70, 10)


@functools.cache
def picture(name: str, width_px: int = 20, height_px: int = 14) -> bytes:
    """Return a PNG that shows a class of CLASSES and nothing else."""
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), COLOURS[name]).save(buffer, "PNG")
    return buffer.getvalue()


def colour(label: str) -> tuple[int, int, int]:
    """Return the RGB levels of a class."""
    return _UNSEEN_COLOUR if label == UNSEEN else COLOURS[label]


def distances(levels: npt.NDArray[np.float32], labels: Sequence[str]) -> npt.NDArray[np.float32]:
    """Compare the mean colour of images with the colours of classes.

    Args:
      levels: float32 (N, H, W, 3), RGB, from 0 to 255.
    Returns:
      float32 (N, K): squared distance to the colour of each label.
    """
    means = levels.mean(axis=(1, 2), dtype=np.float32)
    colours = np.array([colour(label) for label in labels], np.float32)
    squares: npt.NDArray[np.float32] = np.square(means[:, np.newaxis] - colours).sum(axis=2)
    return squares
