"""The images that can be used: which those are shows partly in a scan, partly when they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tensorflow as tf

from trainer import pipeline, storage
from trainer.bad_images import BadImage, bad_images_error, bad_images_json
from trainer.config import TrainConfig
from trainer.distribution import Devices
from trainer.images import Scan, Splits

_log = logging.getLogger(__name__)

Read = TypeVar("Read")


class UsableImages:
    """The images of each split, but for those that cannot be used.

    Attributes:
      splits: those that are left.
    """

    def __init__(self, config: TrainConfig, devices: Devices, directory: Path, scan: Scan) -> None:
        """Leave out what the scan has found.

        Args:
          directory: where bad_images.json goes, if there are any.
        Raises:
          DataError: there are some, and --on-bad-image is "fail".
        """
        self.splits: Splits = scan.splits
        self._config = config
        self._devices = devices
        self._path = directory / "bad_images.json"
        self._bad: list[BadImage] = []
        self._total = len(scan.bad) + sum(map(len, scan.splits.values()))
        self._leave_out(scan.bad)

    def read(self, read: Callable[[Splits], Read]) -> Read:
        """Return what a function makes of the images that it decodes; what cannot be decoded is left out.

        Raises:
          DataError: there is such an image, and --on-bad-image is "fail".
        """
        while True:
            try:
                return read(self.splits)
            except tf.errors.InvalidArgumentError:
                undecodable = pipeline.undecodable(self.splits.values())
                if not undecodable:
                    raise
            self._leave_out(undecodable)

    def _leave_out(self, bad: Sequence[BadImage]) -> None:
        if not bad:
            return
        self._bad += bad
        if self._devices.is_chief:
            with storage.explaining("The list of bad images cannot be written", self._path):
                storage.write_atomically(self._path, bad_images_json(self._bad))
        if self._config.on_bad_image == "fail":
            raise bad_images_error(self._bad, self._total)
        _log.warning("%d images that cannot be used are left out: %s", len(self._bad), self._path)
        paths = {one.path for one in bad}
        self.splits = {split: image_set.without(paths) for split, image_set in self.splits.items()}
