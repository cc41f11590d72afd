"""Scan class folders: find the image files of each split, read each file once, and set invalid ones apart."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.data.image_set import ImageSet, Splits
from trainer.data.invalid_images import (
    InvalidImage,
    empty_class_error,
    inspect_image_file,
    invalid_images_error,
)
from trainer.errors import ConfigError, DataError, join_names

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".heic", ".heif", ".avif")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Scan:
    """The image files of a data folder.

    Attributes:
      splits: the images that look valid. A truncated image is found only when it is decoded.
      invalid: the other image files. The caller decides whether to continue without them.
    """

    splits: Splits
    invalid: tuple[InvalidImage, ...]


def scan_folders(data: Path, *, validation_split: float | None = None, seed: int = 0) -> Scan:
    """Find the images of each split.

    Args:
      data: holds train/CLASS/*, validation/CLASS/* and optionally test/CLASS/*. With a
        `validation_split` it holds CLASS/* directly.
      validation_split: share of each class, between 0 and 1, to hold out from a single tree.
      seed: decides which images are held out.
    Raises:
      DataError: a folder is missing or empty, the splits have different classes, or a class has no
        valid image.
      ConfigError: `validation_split` is given for a tree that has its own validation folder.
    """
    if not data.is_dir():
        raise DataError(f"--data must be a folder of images. Received: {data}, which is not a folder.")
    if (data / "train").is_dir() and not _is_class(data / "train"):
        return _scan_splits(data, validation_split)
    if validation_split is None:
        raise DataError(
            f"--data must hold train/CLASS/* and validation/CLASS/*. Received: {data} without a folder "
            "'train'. For a single tree DATA/CLASS/* add --validation-split 0.2."
        )
    images, invalid = _read_tree(_list_tree(data))
    return Scan(_hold_out(images, validation_split, seed), invalid)


def scan_split(tree: Path) -> ImageSet:
    """Find the images of one tree CLASS/*.

    Raises:
      DataError: the folder is missing or empty, or some images in it are invalid. The message names them.
    """
    if not tree.is_dir():
        raise DataError(f"A folder of images CLASS/* is needed. Received: {tree}, which is not a folder.")
    images, invalid = _read_tree(_list_tree(tree))
    if invalid:
        raise invalid_images_error(invalid, len(images) + len(invalid), can_be_skipped=False)
    return images


def _is_class(folder: Path) -> bool:
    """Return whether the folder holds images itself: a class named "train", not the split of that name."""
    return any(entry.suffix.lower() in SUFFIXES for entry in _entries(folder))


def _scan_splits(data: Path, validation_split: float | None) -> Scan:
    if validation_split is not None:
        raise ConfigError(
            f"--validation-split is for a single tree, and {data} has a folder 'train'. Leave the flag "
            f"out, or pass --data {data / 'train'}."
        )
    if not (data / "validation").is_dir():
        raise DataError(
            f"{data} has a folder 'train' but no folder 'validation'. Add {data / 'validation'}, or "
            f"pass --data {data / 'train'} --validation-split 0.2."
        )
    found = [split for split in ("train", "validation", "test") if (data / split).is_dir()]
    trees = {split: _list_tree(data / split) for split in found}
    for split, by_class in trees.items():
        if list(by_class) != list(trees["train"]):
            raise _different_classes_error(split, list(trees["train"]), list(by_class))
    read = {split: _read_tree(by_class) for split, by_class in trees.items()}
    return Scan(
        {split: images for split, (images, _) in read.items()},
        tuple(image for _, invalid in read.values() for image in invalid),
    )


def _different_classes_error(split: str, train: Sequence[str], other: Sequence[str]) -> DataError:
    parts = []
    if only_train := sorted(set(train) - set(other)):
        parts.append(f"only in train: {', '.join(only_train)}")
    if only_other := sorted(set(other) - set(train)):
        parts.append(f"only in {split}: {', '.join(only_other)}")
    return DataError(
        f"train and {split} must have the same class folders. Received: {'; '.join(parts)}. "
        "Rename or add the folders."
    )


def _list_tree(tree: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted by name."""
    by_class = {
        folder.name: _image_files(folder)
        for folder in _entries(tree)
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if len(by_class) < 2:
        raise DataError(
            f"{tree} must hold at least two class folders. Received: {join_names(by_class) or 'none'}."
        )
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(
            f"Each class folder in {tree} must hold at least one image ({' '.join(SUFFIXES)}). "
            f"Received: no image in {join_names(empty)}. Add images or remove the folder."
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
    if ignored := [entry.name for entry in entries if entry not in set(files)]:
        _log.warning(
            "%s: ignored %d entries that are not %s files: %s",
            folder,
            len(ignored),
            "/".join(suffix[1:].upper() for suffix in SUFFIXES),
            join_names(ignored),
        )
    return files


def _read_tree(by_class: Mapping[str, Sequence[Path]]) -> tuple[ImageSet, tuple[InvalidImage, ...]]:
    """Read every file once; return the valid images and the invalid ones."""
    paths = [path for files in by_class.values() for path in files]
    with ThreadPoolExecutor() as pool:
        inspected = dict(zip(paths, pool.map(inspect_image_file, paths), strict=True))
    invalid = {path: image for path, (_, image) in inspected.items() if image}
    valid = {name: [path for path in files if path not in invalid] for name, files in by_class.items()}
    for name, files in valid.items():
        if not files:
            raise empty_class_error(name, [str(invalid[path]) for path in by_class[name]])
    return ImageSet(
        classes=tuple(valid),
        paths=tuple(path for files in valid.values() for path in files),
        labels=tuple(index for index, files in enumerate(valid.values()) for _ in files),
        digests=tuple(inspected[path][0] for files in valid.values() for path in files),
    ), tuple(invalid.values())


def _hold_out(images: ImageSet, share: float, seed: int) -> Splits:
    chosen: set[Path] = set()
    for index, name in enumerate(images.classes):
        files = [path for path, label in zip(images.paths, images.labels, strict=True) if label == index]
        held_out = max(1, round(len(files) * share))
        if held_out >= len(files):
            raise DataError(
                f"--validation-split {share} leaves no training image of class {name!r}. "
                f"Received: {len(files)} image(s). Add images or lower the split."
            )
        # Seeded by class, so that adding a class does not change what is held out of the others.
        chosen |= set(random.Random(f"{seed}/{name}").sample(files, held_out))
    train, validation = images.split(chosen)
    return {"train": train, "validation": validation}
