"""What the images say before anything is trained: the same picture twice, classes of unequal size."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from trainer.data.images import ImageSet, Splits
from trainer.data.invalid_images import join_names

_IMBALANCED_FROM = 3
"""The largest class has so many times the images of the smallest: then the smallest is worth a warning."""


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Two files with the same bytes.

    Attributes:
      first: the file in the earlier split, or the one of the two that comes first.
      splits: where each lies; twice the same: one picture with two labels, of which one is wrong.
    """

    first: Path
    second: Path
    splits: tuple[str, str]

    @property
    def is_label_conflict(self) -> bool:
        """Whether both lie in one split, under different classes."""
        return self.splits[0] == self.splits[1]

    def __str__(self) -> str:
        return f"{self.first} = {self.second}"


def find_duplicates(splits: Splits) -> list[Duplicate]:
    """Find what makes a measured accuracy wrong: the same bytes in two splits, or under two labels.

    Copies within one class of one split are left alone: they only weigh more.
    """
    found = [one for split, images in splits.items() for one in _label_conflicts(split, images)]
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
    for one in found:
        by_splits.setdefault(one.splits, []).append(one)
    return [_warning(splits, ones) for splits, ones in by_splits.items()]


def _warning(splits: tuple[str, str], ones: Sequence[Duplicate]) -> str:
    named = join_names(map(str, ones), most=3)
    if ones[0].is_label_conflict:
        return (
            f"{len(ones)} of the {splits[0]} images lie under another class too: {named}. "
            "Keep each under the right one."
        )
    return (
        f"{len(ones)} of the {splits[1]} images are in {splits[0]} too, so that the accuracy on "
        f"{splits[1]} looks better than it is: {named}. Remove one of each two."
    )


def imbalance_warning(images: ImageSet) -> str | None:
    """Return a sentence if the largest class has at least 3 times the images of the smallest."""
    counts = images.per_class
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[largest] < _IMBALANCED_FROM * counts[smallest]:
        return None
    return (
        f"the classes have from {counts[smallest]} ({smallest}) to {counts[largest]} ({largest}) images. "
        "--class-weight balanced has each class count the same in the loss."
    )


def quality_warnings(splits: Splits) -> list[str]:
    """Return a sentence for everything in the images that a person should look at."""
    imbalance = imbalance_warning(splits["train"])
    return duplicate_warnings(find_duplicates(splits)) + ([imbalance] if imbalance else [])


def balanced_class_weights(images: ImageSet) -> tuple[float, ...]:
    """Return the weight of an example of each class, with which every class counts the same.

    Returns:
      N / (K × n_c) for each of the K classes, in the order of `classes`: N images, n_c of class c.
      The mean over the examples is 1.
    Source: class_weight="balanced" of scikit-learn (sklearn.utils.class_weight.compute_class_weight).
    """
    return tuple(len(images) / (len(images.classes) * count) for count in images.per_class.values())
