"""The demo's image set: small drawings of six classes, made from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from trainer.errors import ConfigError, DataError

# Drawn four times too large and scaled down, so that edges come out smooth.
_OVERSAMPLING = 4

_Color = tuple[int, int, int]


def write_sample(
    directory: Path,
    *,
    train_per_class: int = 40,
    validation_per_class: int = 10,
    test_per_class: int = 2,
    image_size_px: int = 96,
    seed: int = 0,
) -> dict[str, int]:
    """Write DIR/{train,validation,test}/CLASS/NNN.jpg; the same seed gives the same bytes.

    Returns:
      The number of images in each split.
    Raises:
      ConfigError: a count below 1.
      DataError: the directory holds something already; nothing is overwritten.
    """
    if min(train_per_class, validation_per_class, test_per_class, image_size_px) < 1:
        raise ConfigError("A sample needs at least one image of each class in each split, of at least 1 px.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(
            f"the sample is written into a new or empty directory. Received: {directory}, "
            "which holds something. Name another directory or remove this one."
        )
    counts = {"train": train_per_class, "validation": validation_per_class, "test": test_per_class}
    try:
        for split, count in counts.items():
            for label in CLASSES:
                _write_class(
                    directory / split / label, label, count, image_size_px, f"{seed}/{split}/{label}"
                )
    except OSError as error:
        raise DataError(
            f"{directory} cannot be written: {error.strerror}. Name another directory."
        ) from error
    return {split: count * len(CLASSES) for split, count in counts.items()}


def _write_class(folder: Path, label: str, count: int, size_px: int, seed: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        # A seed of its own for each picture: changing a count leaves the others as they are.
        picture = _picture(_DRAWINGS[label], size_px, random.Random(f"{seed}/{index}"))
        picture.save(folder / f"{index:03d}.jpg", quality=90)


def _picture(draw: Callable[[_Pen], None], size_px: int, rng: random.Random) -> Image.Image:
    pen = _Pen(size_px * _OVERSAMPLING, rng)
    draw(pen)
    turned = pen.image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor=pen.backdrop)
    return turned.resize((size_px, size_px), Image.Resampling.LANCZOS)


class _Pen:
    """Draws in units of the picture's side around a jittered centre, in jittered colours."""

    def __init__(self, side_px: int, rng: random.Random) -> None:
        self.rng = rng
        self.side_px = side_px
        self.scale = rng.uniform(0.8, 1.15)
        self.center = (0.5 + rng.uniform(-0.08, 0.08), 0.5 + rng.uniform(-0.08, 0.08))
        self.image = Image.new("RGB", (side_px, side_px))
        self._draw = ImageDraw.Draw(self.image)
        self.backdrop: _Color = (0, 0, 0)

    def color(self, base: _Color, jitter: int = 28) -> _Color:
        red, green, blue = (max(0, min(255, level + self.rng.randint(-jitter, jitter))) for level in base)
        return red, green, blue

    def fill(self, base: _Color) -> None:
        self.backdrop = self.color(base)
        self._draw.rectangle((0, 0, self.side_px, self.side_px), fill=self.backdrop)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (
            (self.center[0] + x * self.scale) * self.side_px,
            (self.center[1] + y * self.scale) * self.side_px,
        )

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: _Color) -> None:
        self._draw.ellipse((*self._at(x - rx, y - ry), *self._at(x + rx, y + ry)), fill=fill)

    def polygon(self, points: list[tuple[float, float]], fill: _Color) -> None:
        self._draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: _Color) -> None:
        self._draw.rectangle((*self._at(x0, y0), *self._at(x1, y1)), fill=fill)


def _sun(pen: _Pen) -> None:
    pen.fill((120, 190, 240))
    gold = pen.color((250, 200, 40))
    for ray in range(12):
        angle = math.tau * ray / 12
        spread = 0.12
        pen.polygon(
            [
                (0.22 * math.cos(angle - spread), 0.22 * math.sin(angle - spread)),
                (0.38 * math.cos(angle), 0.38 * math.sin(angle)),
                (0.22 * math.cos(angle + spread), 0.22 * math.sin(angle + spread)),
            ],
            gold,
        )
    pen.ellipse(0, 0, 0.19, 0.19, gold)


def _moon(pen: _Pen) -> None:
    pen.fill((25, 28, 70))
    for _ in range(14):
        x, y = pen.rng.uniform(-0.6, 0.6), pen.rng.uniform(-0.6, 0.6)
        pen.ellipse(x, y, 0.012, 0.012, pen.color((230, 230, 220)))
    pen.ellipse(0, 0, 0.27, 0.27, pen.color((235, 232, 200)))
    pen.ellipse(0.12, -0.05, 0.24, 0.24, pen.backdrop)


def _tree(pen: _Pen) -> None:
    pen.fill((205, 225, 235))
    pen.rectangle(-0.05, 0.2, 0.05, 0.4, pen.color((110, 75, 45)))
    green = pen.color((40, 120, 55))
    for top, half_width in ((-0.42, 0.17), (-0.25, 0.23), (-0.06, 0.3)):
        pen.polygon([(0, top), (half_width, top + 0.3), (-half_width, top + 0.3)], green)


def _house(pen: _Pen) -> None:
    pen.fill((190, 215, 160))
    pen.rectangle(-0.26, -0.05, 0.26, 0.32, pen.color((235, 220, 195)))
    pen.polygon([(-0.34, -0.05), (0, -0.36), (0.34, -0.05)], pen.color((185, 60, 50)))
    pen.rectangle(-0.06, 0.1, 0.06, 0.32, pen.color((105, 70, 50)))
    for x in (-0.2, 0.1):
        pen.rectangle(x, 0.03, x + 0.1, 0.13, pen.color((110, 160, 200)))


def _fish(pen: _Pen) -> None:
    pen.fill((30, 130, 150))
    orange = pen.color((245, 130, 40))
    pen.polygon([(0.15, 0), (0.38, -0.17), (0.38, 0.17)], orange)
    pen.ellipse(-0.04, 0, 0.28, 0.17, orange)
    pen.rectangle(-0.08, -0.16, -0.02, 0.16, pen.color((245, 240, 230)))
    pen.ellipse(-0.2, -0.04, 0.03, 0.03, pen.color((20, 20, 25), jitter=10))


def _flower(pen: _Pen) -> None:
    pen.fill((70, 140, 70))
    pink = pen.color((225, 90, 160))
    for petal in range(6):
        angle = math.tau * petal / 6
        pen.ellipse(0.19 * math.cos(angle), 0.19 * math.sin(angle), 0.14, 0.14, pink)
    pen.ellipse(0, 0, 0.12, 0.12, pen.color((245, 215, 70)))


_DRAWINGS: dict[str, Callable[[_Pen], None]] = {
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "moon": _moon,
    "sun": _sun,
    "tree": _tree,
}

CLASSES = tuple(_DRAWINGS)
