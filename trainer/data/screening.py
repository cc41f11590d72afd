"""The images that can be used: which those are shows partly in a scan, partly when they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tensorflow as tf

from trainer.config import OnInvalidImage
from trainer.data.images import Scan, Splits
from trainer.data.invalid_images import InvalidImage, invalid_images_error, invalid_images_json
from trainer.data.pipeline import find_undecodable
from trainer.runtime import storage

_log = logging.getLogger(__name__)

Read = TypeVar("Read")


class ScreenedImages:
    """The images of each split, but for those that cannot be used.

    Attributes:
      splits: those that are left.
    """

    def __init__(
        self, scan: Scan, on_invalid_image: OnInvalidImage, directory: Path, *, is_chief: bool
    ) -> None:
        """Leave out what the scan has found.

        Args:
          directory: where invalid_images.json goes, if there are any.
        Raises:
          DataError: there are some, and --on-invalid-image is "fail".
        """
        self.splits: Splits = scan.splits
        self._on_invalid_image = on_invalid_image
        self._is_chief = is_chief
        self._path = directory / "invalid_images.json"
        self._bad: list[InvalidImage] = []
        self._total = len(scan.bad) + sum(map(len, scan.splits.values()))
        self._leave_out(scan.bad)

    def read(self, read: Callable[[Splits], Read]) -> Read:
        """Return what a function makes of the images that it decodes; what cannot be decoded is left out.

        Raises:
          DataError: there is such an image, and --on-invalid-image is "fail".
        """
        while True:
            try:
                return read(self.splits)
            except tf.errors.InvalidArgumentError:
                undecodable = find_undecodable(self.splits.values())
                if not undecodable:
                    raise
            self._leave_out(undecodable)

    def _leave_out(self, bad: Sequence[InvalidImage]) -> None:
        if not bad:
            return
        self._bad += bad
        if self._is_chief:
            with storage.explain_errors("The list of bad images cannot be written", self._path):
                storage.write_atomically(self._path, invalid_images_json(self._bad))
        if self._on_invalid_image == "fail":
            raise invalid_images_error(self._bad, self._total)
        _log.warning("%d images that cannot be used are left out: %s", len(self._bad), self._path)
        paths = {one.path for one in bad}
        self.splits = {split: image_set.without(paths) for split, image_set in self.splits.items()}
