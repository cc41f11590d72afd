"""Find the versions in a model's base path. Which names are version numbers is TensorFlow Serving's rule."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

# Source: ParseVersionNumber in tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc,
# which calls absl::SimpleAtoi: digits of ASCII only, a sign and surrounding whitespace allowed.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")

_log = logging.getLogger(__name__)


def version_number(name: str) -> int | None:
    """Return the version number that a directory's name stands for; None if it stands for none.

    Leading zeros do not count: `00000123` is version 123. A number outside of int64 is not a version.
    """
    found = _NUMBER.fullmatch(name)
    if not found:
        return None
    number = int(found[1])
    return number if -(2**63) <= number < 2**63 else None


class BasePath:
    """The directory with the versions of one model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._duplicates: dict[int, list[str]] = {}

    def versions(self) -> dict[int, Path]:
        """Return the directory of each version that is on disk now.

        Of several directories with the same number, such as `1` and `001`, the last in alphabetical order is
        used. A warning names the others once.

        Raises:
          OSError: the base path cannot be read.
        """
        names: dict[int, list[str]] = {}
        for entry in sorted(self.path.iterdir(), key=os.fsencode):
            number = version_number(entry.name)
            if number is not None and entry.is_dir():
                names.setdefault(number, []).append(entry.name)
        duplicates = {number: found for number, found in names.items() if len(found) > 1}
        for number, found in duplicates.items():
            if self._duplicates.get(number) != found:
                *ignored, used = map(repr, found)
                _log.warning(
                    "%s has several directories for version %d. Using %s, ignoring %s.",
                    self.path,
                    number,
                    used,
                    ", ".join(ignored),
                )
        self._duplicates = duplicates
        return {number: self.path / found[-1] for number, found in names.items()}
