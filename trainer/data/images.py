"""Scan class folders into image sets: which files, which classes, and a fingerprint of the bytes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.data.invalid_images import InvalidImage, inspect_image_file, invalid_images_error, join_names
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
      digests: SHA-256 (hex) of each file's bytes, as long as `paths`.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over each image's class, file name and bytes."""
        total = hashlib.sha256()
        for path, digest in zip(self.paths, self.digests, strict=True):
            total.update(f"{path.parent.name}/{path.name}\0{digest}\n".encode())
        return total.hexdigest()

    @property
    def per_class(self) -> dict[str, int]:
        """Number of images of each class, in the order of `classes`."""
        counts = Counter(self.labels)
        return {name: counts[index] for index, name in enumerate(self.classes)}

    def summary(self) -> dict[str, Any]:
        """Return what the model card says of this split: counts and the fingerprint."""
        return {"images": len(self), "per_class": self.per_class, "fingerprint": self.fingerprint}

    def without(self, paths: Collection[Path]) -> ImageSet:
        """Return the images that are not under one of these paths.

        Raises:
          DataError: a class would have no image left.
        """
        dropped = set(paths)
        rest = self.subset([index for index, path in enumerate(self.paths) if path not in dropped])
        for name, count in rest.per_class.items():
            if not count:
                gone = [path for path in self.paths if path in dropped and path.parent.name == name]
                raise DataError(_left_empty(name, [str(path) for path in gone]))
        return rest

    def split(self, held_out: Container[Path]) -> tuple[ImageSet, ImageSet]:
        """Return the images that are not held out, and those that are."""
        rest = [index for index, path in enumerate(self.paths) if path not in held_out]
        chosen = [index for index, path in enumerate(self.paths) if path in held_out]
        return self.subset(rest), self.subset(chosen)

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Return the images at these places, in this order."""
        return ImageSet(
            self.classes,
            tuple(self.paths[index] for index in indices),
            tuple(self.labels[index] for index in indices),
            tuple(self.digests[index] for index in indices),
        )


Splits = dict[str, ImageSet]
"""The image sets of one run: train, validation and perhaps test, all with the same classes."""


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
      splits: the images that can be used, as far as can be told without decoding them.
      bad: the others; whether the run goes on without them is not decided here.
    """

    splits: Splits
    bad: tuple[InvalidImage, ...]


def scan_folders(data: Path, *, validation_split: float | None = None, seed: int = 0) -> Scan:
    """Find the images of each split.

    Args:
      data: holds train/CLASS/* and validation/CLASS/* and perhaps test/CLASS/*; or, with a
        `validation_split`, CLASS/* directly.
      validation_split: share of each class, between 0 and 1, that a single tree holds out.
      seed: decides which images are held out.
    Raises:
      DataError: a folder is missing or empty, the splits have different classes, or a class has no
        image that can be used.
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
    images, bad = _read(_scan_tree(data))
    return Scan(_hold_out(images, validation_split, seed), bad)


def scan_split(tree: Path) -> ImageSet:
    """Find the images of one tree CLASS/*.

    Raises:
      DataError: the folder is missing or empty, or files in it are no usable images; names them.
    """
    if not tree.is_dir():
        raise DataError(f"A folder of images CLASS/* is needed. Received: {tree}, which is no folder.")
    images, bad = _read(_scan_tree(tree))
    if bad:
        raise invalid_images_error(bad, len(images) + len(bad), can_be_skipped=False)
    return images


def _is_class(folder: Path) -> bool:
    """Tell a class that happens to be called "train" from the split of that name: it holds pictures."""
    return any(entry.suffix.lower() in SUFFIXES for entry in _entries(folder))


def _scan_splits(data: Path, validation_split: float | None) -> Scan:
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
    trees = {split: _scan_tree(data / split) for split in found}
    for split, by_class in trees.items():
        if list(by_class) != list(trees["train"]):
            raise DataError(_different_classes(split, list(trees["train"]), list(by_class)))
    read = {split: _read(by_class) for split, by_class in trees.items()}
    return Scan(
        {split: images for split, (images, _) in read.items()},
        tuple(one for _, bad in read.values() for one in bad),
    )


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
            f"{tree} must hold at least two class folders. Received: {join_names(by_class) or 'none'}."
        )
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(
            f"each class folder in {tree} must hold at least one image ({' '.join(SUFFIXES)}). "
            f"Empty: {join_names(empty)}. Add images or remove the folder."
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
            join_names(left_out),
        )
    return files


def _read(by_class: Mapping[str, Sequence[Path]]) -> tuple[ImageSet, tuple[InvalidImage, ...]]:
    """Read every file once: the images that can be used, and the others."""
    paths = [path for files in by_class.values() for path in files]
    with ThreadPoolExecutor() as pool:
        digest_of = dict(zip(paths, pool.map(inspect_image_file, paths), strict=True))
    bad = tuple(refused for _, refused in digest_of.values() if refused)
    good = {name: [path for path in files if not digest_of[path][1]] for name, files in by_class.items()}
    for name, files in good.items():
        if not files:
            raise DataError(_left_empty(name, [str(one) for one in bad if one.path in by_class[name]]))
    return ImageSet(
        classes=tuple(good),
        paths=tuple(path for files in good.values() for path in files),
        labels=tuple(index for index, files in enumerate(good.values()) for _ in files),
        digests=tuple(digest_of[path][0] for files in good.values() for path in files),
    ), bad


def _left_empty(name: str, gone: Sequence[str]) -> str:
    return (
        f"class {name!r} must have at least one image that can be used. Not one of its {len(gone)} can: "
        f"{join_names(gone, most=3)}. Add images or remove the class."
    )


def _hold_out(images: ImageSet, share: float, seed: int) -> Splits:
    chosen: set[Path] = set()
    for index, name in enumerate(images.classes):
        files = [path for path, label in zip(images.paths, images.labels, strict=True) if label == index]
        held_out = max(1, round(len(files) * share))
        if held_out >= len(files):
            raise DataError(
                f"--validation-split {share} leaves no image of class {name!r} to train on "
                f"(it has {len(files)}). Add images or lower the split."
            )
        # Seeded by class, so that a new class does not move the images of the others.
        chosen |= set(random.Random(f"{seed}/{name}").sample(files, held_out))
    train, validation = images.split(chosen)
    return {"train": train, "validation": validation}
