"""Apply --on-invalid-image: list invalid images, then stop or continue without them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tensorflow as tf

from trainer.config import OnInvalidImage
from trainer.data.agreement import find_undecodable
from trainer.data.folders import Scan
from trainer.data.image_set import Splits
from trainer.data.invalid_images import InvalidImage, invalid_images_error, invalid_images_json
from trainer.runtime import storage

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class ScreenedImages:
    """The valid images of each split.

    A scan finds most invalid images. The rest, such as files with damaged coded data, are found when they are
    decoded.

    Attributes:
      splits: the images that have not been found invalid so far.
    """

    def __init__(
        self, scan: Scan, on_invalid_image: OnInvalidImage, directory: Path, *, is_chief: bool
    ) -> None:
        """Drop the images that the scan found invalid.

        Args:
          directory: where the chief writes invalid_images.json, if there are any.
        Raises:
          DataError: there are invalid images, and --on-invalid-image is "fail".
        """
        self.splits: Splits = scan.splits
        self._on_invalid_image = on_invalid_image
        self._is_chief = is_chief
        self._path = directory / "invalid_images.json"
        self._invalid: list[InvalidImage] = []
        self._total = len(scan.invalid) + sum(map(len, scan.splits.values()))
        self._drop(scan.invalid)

    def read(self, read: Callable[[Splits], Result]) -> Result:
        """Call a function that decodes the images, and return its result.

        If an image cannot be decoded, or the client decodes it otherwise, all such images are dropped and the
        function is called again.

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
            self._drop(undecodable)

    def _drop(self, invalid: Sequence[InvalidImage]) -> None:
        if not invalid:
            return
        self._invalid += invalid
        if self._is_chief:
            with storage.explain_errors("The list of invalid images cannot be written", self._path):
                storage.write_atomically(self._path, invalid_images_json(self._invalid))
        if self._on_invalid_image == "fail":
            raise invalid_images_error(self._invalid, self._total)
        _log.warning("skipped %d invalid image(s), listed in %s", len(self._invalid), self._path)
        paths = {image.path for image in invalid}
        self.splits = {split: images.without(paths) for split, images in self.splits.items()}
