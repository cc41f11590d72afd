"""Problems in the images that a person should know before training: duplicates and imbalanced classes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from trainer.data.image_set import ImageSet, Splits
from trainer.errors import join_names

_IMBALANCE_RATIO = 3
"""Warn when the largest class has at least this many times the images of the smallest."""


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Two files with the same bytes.

    Attributes:
      first: the file in the earlier split, or in the class that sorts first.
      splits: the split of each file. If both are the same, one image has two labels, and one is wrong.
    """

    first: Path
    second: Path
    splits: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.first} = {self.second}"


def find_duplicates(splits: Splits) -> list[Duplicate]:
    """Find equal files in two splits or under two labels: both make a measured accuracy wrong.

    Copies within one class of one split are not reported. They only give the image more weight.
    """
    found = [conflict for split, images in splits.items() for conflict in _label_conflicts(split, images)]
    for earlier, later in itertools.combinations(splits, 2):
        first_path = _first_paths(splits[earlier])
        found += [
            Duplicate(first_path[digest], path, (earlier, later))
            for path, digest in zip(splits[later].paths, splits[later].digests, strict=True)
            if digest in first_path
        ]
    return found


def _label_conflicts(split: str, images: ImageSet) -> list[Duplicate]:
    first_path = _first_paths(images)
    return [
        Duplicate(first_path[digest], path, (split, split))
        for path, digest in zip(images.paths, images.digests, strict=True)
        if first_path[digest].parent.name != path.parent.name
    ]


def _first_paths(images: ImageSet) -> dict[str, Path]:
    """Return the first file of each digest."""
    return dict(zip(reversed(images.digests), reversed(images.paths), strict=True))


def duplicate_warnings(found: Sequence[Duplicate]) -> list[str]:
    """Return one sentence for each pair of splits, and for each split with label conflicts."""
    by_splits: dict[tuple[str, str], list[Duplicate]] = {}
    for duplicate in found:
        by_splits.setdefault(duplicate.splits, []).append(duplicate)
    return [_warning(splits, duplicates) for splits, duplicates in by_splits.items()]


def _warning(splits: tuple[str, str], duplicates: Sequence[Duplicate]) -> str:
    earlier, later = splits
    named = join_names(map(str, duplicates), most=3)
    if earlier == later:
        return (
            f"{len(duplicates)} of the {later} images are also under another class: {named}. "
            "Keep each image under its right class only."
        )
    return (
        f"{len(duplicates)} of the {later} images are also in {earlier}, which makes the accuracy on "
        f"{later} look better than it is: {named}. Remove one file of each pair."
    )


def imbalance_warning(images: ImageSet) -> str | None:
    """Return a sentence if the largest class has at least 3 times the images of the smallest."""
    counts = images.per_class
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[largest] < _IMBALANCE_RATIO * counts[smallest]:
        return None
    return (
        f"the classes have from {counts[smallest]} ({smallest}) to {counts[largest]} ({largest}) images. "
        "With --class-weight balanced each class counts the same in the loss."
    )


def quality_warnings(splits: Splits) -> list[str]:
    """Return a sentence for each problem: duplicates in all splits, imbalance in the training split."""
    imbalance = imbalance_warning(splits["train"])
    return duplicate_warnings(find_duplicates(splits)) + ([imbalance] if imbalance else [])


def balanced_class_weights(images: ImageSet) -> tuple[float, ...]:
    """Return the weights of each class's examples that make all classes count the same.

    Returns:
      N / (K × n_c) for each of the K classes, in the order of `classes`: N images, n_c of class c.
      The mean over the examples is 1.
    Source: class_weight="balanced" of scikit-learn (sklearn.utils.class_weight.compute_class_weight).
    """
    return tuple(len(images) / (len(images.classes) * count) for count in images.per_class.values())
