"""Scan class folders into image sets: which files, which classes, and a fingerprint of the bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, DataError

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
    if (data / "train").is_dir():
        return _scan_splits(data, validation_split)
    if validation_split is None:
        raise DataError(
            f"--data must hold train/CLASS/* and validation/CLASS/*. Received: {data} without a folder "
            "'train'. For a single tree DATA/CLASS/* add --validation-split 0.2."
        )
    return _split_tree(_scan_tree(data), validation_split, seed)


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
        for folder in sorted(tree.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if len(by_class) < 2:
        raise DataError(
            f"{tree} must hold at least two class folders. Received: {_listed(by_class) or 'none'}."
        )
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(
            f"each class folder in {tree} must hold at least one image ({' '.join(SUFFIXES)}). "
            f"Empty: {_listed(empty)}. Add images or remove the folder."
        )
    return by_class


def _image_files(folder: Path) -> list[Path]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    if left_out := [entry.name for entry in entries if entry not in set(files)]:
        _log.warning(
            "%s: left out %d that are no %s files: %s",
            folder,
            len(left_out),
            "/".join(suffix[1:].upper() for suffix in SUFFIXES),
            _listed(left_out),
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
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
            total.update(f"{path.parent.name}/{path.name}\0{digest}\n".encode())
    return total.hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Mend or remove it.") from error


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
