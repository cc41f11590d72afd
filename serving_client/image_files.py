"""What a command line names → images: files, folders, patterns, standard input."""

from __future__ import annotations

import dataclasses
import glob
import os
import sys
from collections.abc import Iterator, Sequence

from serving_client.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
STDIN = "-"


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Names of images in an order that is the same in each run.

    Attributes:
      names: of files, or STDIN for an image's bytes on standard input.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str | bytes]:
        """Return what `classify` takes."""
        return (sys.stdin.buffer.read() if name == STDIN else name for name in self.names)


def find(arguments: Sequence[str]) -> ImageFiles:
    """Find the images that the arguments name.

    Args:
      arguments: files; folders, of which all images are taken, also those of folders within, but nothing
        hidden; patterns such as "**/*.jpg", for shells that do not know them; STDIN.
    Raises:
      ImageError: a folder or a pattern has no image.
    """
    return ImageFiles([name for argument in arguments for name in _names(argument)])


def _names(argument: str) -> list[str]:
    if os.path.isdir(argument):
        found = _below(argument)
        kind = f"folder with images ({', '.join(SUFFIXES)})"
    elif glob.has_magic(argument) and not os.path.exists(argument):
        found = sorted(name for name in glob.iglob(argument, recursive=True) if not os.path.isdir(name))
        kind = "pattern of files that are there"
    else:
        return [argument]
    if not found:
        raise ImageError(f"{argument}: no image found. Expected a {kind}.")
    return found


def _below(folder: str) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(os.path.join(parent, name))
    return found
