"""Read the files of tar and zip archives from untrusted sources."""

from __future__ import annotations

import contextlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from trainer.errors import DataError

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class Member(NamedTuple):
    """One file: its path below the target, its size in bytes, its content, a tar's PAX headers."""

    path: PurePosixPath
    size_bytes: int
    content: IO[bytes]
    headers: Mapping[str, str] = {}


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[Iterator[Member]]:
    """Open a .tar, .tar.gz, .tgz, .tar.xz or .zip, and yield its files one after the other.

    Raises:
      DataError: it has another format or is damaged, or holds a link, a device or a path that leads outside.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield _of_zip(file)
        else:
            with tarfile.open(archive) as tar:
                yield of_tar(tar)
    except _DAMAGED as error:
        raise DataError(f"An archive must be a complete .tar, .tar.gz or .zip. Received: {error}.") from error


def of_tar(tar: tarfile.TarFile) -> Iterator[Member]:
    """Yield the files of an open tar, even of a stream.

    Raises:
      DataError: the tar holds a link, a device or a path that leads outside.
    """
    for member in tar:
        path = _inside(member.name)
        if member.isdir():
            continue
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise DataError(f"An archive may hold files and folders only. Received: {member.name!r}.")
        yield Member(path, member.size, content, member.pax_headers)


def _of_zip(archive: zipfile.ZipFile) -> Iterator[Member]:
    for member in archive.infolist():
        path = _inside(member.filename)
        if member.is_dir():
            continue
        mode = member.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise DataError(f"An archive may hold files and folders only. Received: {member.filename!r}.")
        with archive.open(member) as content:
            yield Member(path, member.file_size, content)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and ":" in path.parts[0]):
        raise DataError(f"A path in an archive must lead below its folder. Received: {name!r}.")
    return path
