"""Scan class folders into image sets: which files, which classes, and a fingerprint of the bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.errors import ConfigError, DataError

_DECODED_ALIKE = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one split.

    Attributes:
      classes: class names in the order of the model's outputs (sorted).
      paths: one file per image.
      labels: index into `classes` of each image, as long as `paths`.
      fingerprint: SHA-256 (hex) over each image's class, file name and bytes.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> dict[str, Any]:
        """Return what the model card says of this split: counts and the fingerprint."""
        counts = Counter(self.labels)
        per_class = {name: counts[index] for index, name in enumerate(self.classes)}
        return {"images": len(self), "per_class": per_class, "fingerprint": self.fingerprint}


Splits = dict[str, ImageSet]
"""The image sets of one run: train, validation and perhaps test, all with the same classes."""


def scan(data: Path, *, validation_split: float | None = None, seed: int = 0) -> Splits:
    """Find the images of each split.

    Args:
      data: holds train/CLASS/* and validation/CLASS/* and perhaps test/CLASS/*; or, with a
        `validation_split`, CLASS/* directly.
      validation_split: share of each class, between 0 and 1, that a single tree holds out.
      seed: decides which images are held out.
    Raises:
      DataError: a folder is missing or empty, or the splits have different classes.
      ConfigError: `validation_split` is given for a tree that has its own validation folder.
    """
    if not data.is_dir():
        raise DataError(f"--data must be a folder of images. Received: {data}, which is no folder.")
    if (data / "train").is_dir() and not _is_class(data / "train"):
        return _scan_splits(data, validation_split)
    if validation_split is None:
        raise DataError(
            f"--data must hold train/CLASS/* and validation/CLASS/*. Received: {data} without a folder "
            "'train'. For a single tree DATA/CLASS/* add --validation-split 0.2."
        )
    return _split_tree(_scan_tree(data), validation_split, seed)


def _is_class(folder: Path) -> bool:
    """Tell a class that happens to be called "train" from the split of that name: it holds pictures."""
    return any(entry.suffix.lower() in SUFFIXES for entry in _entries(folder))


def _scan_splits(data: Path, validation_split: float | None) -> Splits:
    if validation_split is not None:
        raise ConfigError(
            f"--validation-split is for a single tree, and {data} has a folder 'train'. Leave the flag "
            f"out, or pass --data {data / 'train'}."
        )
    if not (data / "validation").is_dir():
        raise DataError(
            f"{data} has a folder 'train' but none named 'validation'. Add {data / 'validation'}, or "
            f"pass --data {data / 'train'} --validation-split 0.2."
        )
    found = [split for split in ("train", "validation", "test") if (data / split).is_dir()]
    splits = {split: _image_set(_scan_tree(data / split)) for split in found}
    for split, images in splits.items():
        if images.classes != splits["train"].classes:
            raise DataError(_different_classes(split, splits["train"].classes, images.classes))
    return splits


def _different_classes(split: str, train: Sequence[str], other: Sequence[str]) -> str:
    parts = []
    if only_train := sorted(set(train) - set(other)):
        parts.append(f"only in train: {', '.join(only_train)}")
    if only_other := sorted(set(other) - set(train)):
        parts.append(f"only in {split}: {', '.join(only_other)}")
    return (
        f"train and {split} must have the same class folders. Received: {'; '.join(parts)}. "
        "Rename or add the folders."
    )


def _scan_tree(tree: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted by name."""
    by_class = {
        folder.name: _image_files(folder)
        for folder in _entries(tree)
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if len(by_class) < 2:
        raise DataError(
            f"{tree} must hold at least two class folders. Received: {listed(by_class) or 'none'}."
        )
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(
            f"each class folder in {tree} must hold at least one image ({' '.join(SUFFIXES)}). "
            f"Empty: {listed(empty)}. Add images or remove the folder."
        )
    return by_class


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}. Check its permissions.") from error


def _image_files(folder: Path) -> list[Path]:
    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    if left_out := [entry.name for entry in entries if entry not in set(files)]:
        _log.warning(
            "%s: left out %d that are no %s files: %s",
            folder,
            len(left_out),
            "/".join(suffix[1:].upper() for suffix in SUFFIXES),
            listed(left_out),
        )
    return files


def _split_tree(by_class: dict[str, list[Path]], share: float, seed: int) -> Splits:
    train, validation = {}, {}
    for name, files in by_class.items():
        held_out = max(1, round(len(files) * share))
        if held_out >= len(files):
            raise DataError(
                f"--validation-split {share} leaves no image of class {name!r} to train on "
                f"(it has {len(files)}). Add images or lower the split."
            )
        # Seeded by class, so that a new class does not move the images of the others.
        chosen = set(random.Random(f"{seed}/{name}").sample(files, held_out))
        train[name] = [path for path in files if path not in chosen]
        validation[name] = [path for path in files if path in chosen]
    return {"train": _image_set(train), "validation": _image_set(validation)}


def _image_set(by_class: dict[str, list[Path]]) -> ImageSet:
    paths = tuple(path for files in by_class.values() for path in files)
    labels = tuple(index for index, files in enumerate(by_class.values()) for _ in files)
    return ImageSet(tuple(by_class), paths, labels, _fingerprint(paths))


def _fingerprint(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    refused: list[str] = []
    with ThreadPoolExecutor() as pool:
        for path, (digest, refusal) in zip(paths, pool.map(_inspect, paths), strict=True):
            # Surrogates: a name that is no UTF-8, which _inspect refuses.
            total.update(f"{path.parent.name}/{path.name}\0{digest}\n".encode(errors="surrogateescape"))
            if refusal:
                refused.append(f"{ascii(path.name) if not _is_utf8(path) else path} ({refusal})")
    if refused:
        raise DataError(
            f"{len(refused)} of {len(paths)} images cannot be used: {listed(refused)}. Mend or remove them."
        )
    return total.hexdigest()


def _inspect(path: Path) -> tuple[str, str | None]:
    """Return the SHA-256 of a file and, if it cannot be used, why.

    What is found here is found before the network is built. That a picture decodes to its end shows
    only when it is decoded (pipeline.naming_unreadable).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"
    return hashlib.sha256(data).hexdigest(), _refusal(path, data)


def _refusal(path: Path, data: bytes) -> str | None:
    if not _is_utf8(path):
        return "its name is no UTF-8"
    if data.startswith(_DECODED_ALIKE):
        return None
    if not data.startswith((b"BM", b"GIF8")):
        return "no JPEG, PNG, BMP or GIF"
    # TensorFlow reads a palette's indices as grey levels, and misplaces a frame that is no whole one.
    try:
        with Image.open(io.BytesIO(data), formats=("BMP", "GIF")) as image:
            if image.format == "BMP" and image.mode in ("1", "P"):
                return "a BMP with a palette: save it as PNG"
            if image.format == "GIF" and image.tile and image.tile[0][1] != (0, 0, *image.size):
                return "the first frame does not fill the GIF's canvas: save it as PNG"
    except (OSError, ValueError, SyntaxError) as error:
        return " ".join(str(error).split())
    return None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return at most so many names, and how many more there are, for a message."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
