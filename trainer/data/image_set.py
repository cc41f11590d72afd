"""The images of one split: their paths, labels and content digests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Collection, Container, Sequence
from pathlib import Path
from typing import Any

from trainer.data.invalid_images import empty_class_error


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
        """Return the model card's entry for this split: image counts and the fingerprint."""
        return {"images": len(self), "per_class": self.per_class, "fingerprint": self.fingerprint}

    def without(self, paths: Collection[Path]) -> ImageSet:
        """Return the images whose paths are not among these.

        Raises:
          DataError: a class would have no image left.
        """
        dropped = set(paths)
        rest = self.subset([index for index, path in enumerate(self.paths) if path not in dropped])
        for name, count in rest.per_class.items():
            if not count:
                in_class = [path for path in self.paths if path.parent.name == name]
                raise empty_class_error(name, list(map(str, in_class)))
        return rest

    def split(self, held_out: Container[Path]) -> tuple[ImageSet, ImageSet]:
        """Return the images that are not held out, and those that are."""
        rest = [index for index, path in enumerate(self.paths) if path not in held_out]
        chosen = [index for index, path in enumerate(self.paths) if path in held_out]
        return self.subset(rest), self.subset(chosen)

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Return the images with these indices, in this order."""
        return ImageSet(
            self.classes,
            tuple(self.paths[index] for index in indices),
            tuple(self.labels[index] for index in indices),
            tuple(self.digests[index] for index in indices),
        )


Splits = dict[str, ImageSet]
"""The image sets of one run, all with the same classes. Keys: train, validation and optionally test."""
