"""Find the images that a command line names: files, folders, patterns, standard input."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence

from serving_client.errors import ImageError
from serving_client.formats import heif

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", *heif.SUFFIXES)
STDIN = "-"


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Images in a reproducible order; iterating yields what `Client.stream` accepts.

    Attributes:
      names: paths, or STDIN for an image's bytes on standard input.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str | bytes]:
        return (_read_stdin() if name == STDIN else name for name in self.names)


def _read_stdin() -> bytes:
    """Read standard input to its end.

    Without Python's buffer: its lock would keep the program from ending while another thread waits for input.

    Raises:
      ImageError: it is closed or cannot be read.
    """
    try:
        with open(0, "rb", buffering=0, closefd=False) as stdin:
            return stdin.read()
    except OSError as error:
        raise ImageError(f"{STDIN}: standard input cannot be read: {error.strerror}.") from error


def find(arguments: Sequence[str]) -> ImageFiles:
    """Find the images that the arguments name.

    Args:
      arguments: files; folders, which are searched recursively except for hidden files and folders; patterns
        such as "**/*.jpg", for shells that do not expand them; STDIN.
    Raises:
      ImageError: a folder or a pattern has no image.
    """
    return ImageFiles([name for argument in arguments for name in _names(argument)])


def _names(argument: str) -> list[str]:
    if os.path.isdir(argument):
        names = _search(argument)
        expected = f"a folder with images ({', '.join(SUFFIXES)})"
    elif glob.has_magic(argument) and not os.path.exists(argument):
        names = sorted(name for name in glob.iglob(argument, recursive=True) if not os.path.isdir(name))
        expected = "a pattern that matches files"
    else:
        return [argument]
    if not names:
        raise ImageError(f"{argument}: no image found. Expected {expected}.")
    return names


def _search(folder: str) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                names.append(os.path.join(parent, name))
    return names
