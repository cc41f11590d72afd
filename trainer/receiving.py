"""The receiver of `push-data`, which runs in a pod that mounts the claim.

python -m trainer.receiving known DIR       print the files of DIR: a JSON object of path → SHA-256
python -m trainer.receiving take DIR BYTES  unpack a tar of BYTES bytes from standard input into DIR

Older clients call it too, so its name, arguments and output do not change.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from trainer.errors import DataError, StorageError, TrainerError
from trainer.runtime import archives, storage

CHECKSUM = "IMAGECLASSIFIER.sha256"
"""PAX header with the SHA-256 of a member of the tar."""

_CHUNK_BYTES = 2**20


def files_of(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a directory that are not hidden, sorted: relative path with `/`, and path."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of the rest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def known(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a directory, by relative path."""
    found = {}
    for name, path in files_of(directory):
        with path.open("rb") as file:
            found[name] = sha256_of(file)
    return found


def take(directory: Path, source: IO[bytes], size_bytes: int) -> int:
    """Write the files of a tar, each atomically; return their number.

    Args:
      source: the stream with the tar.
      size_bytes: of the tar. A websocket does not report the end of a stream.
    Raises:
      DataError: the tar is damaged, or a file does not match its checksum.
      StorageError: the volume is full or cannot be written.
    """
    count = 0
    limited: IO[bytes] = io.BufferedReader(_Limited(source, size_bytes))  # type: ignore[type-var]  # a RawIOBase
    try:
        with tarfile.open(fileobj=limited, mode="r|") as tar:
            for member in archives.of_tar(tar):
                _write(
                    directory.joinpath(*member.path.parts), member.content, member.headers.get(CHECKSUM, "")
                )
                count += 1
    except tarfile.TarError as error:
        raise DataError(f"The tar must be complete. Received: {error}. Send it again.") from error
    except OSError as error:
        raise StorageError(f"{directory}: {error.strerror or error}.") from error
    finally:
        while limited.read(_CHUNK_BYTES):  # the sender reads the error only after it has sent everything
            pass
    return count


def _write(path: Path, content: IO[bytes], checksum: str) -> None:
    def copy(file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != checksum:
            raise DataError(
                f"{path.name} must arrive with the SHA-256 {checksum or '(none was sent)'}. Received: "
                f"{digest.hexdigest()}. Send it again."
            )

    path.parent.mkdir(parents=True, exist_ok=True)
    # The same file sent again has the same token: it overwrites what a killed receiver left.
    token = hashlib.sha256(os.fsencode(path.name) + checksum.encode()).hexdigest()[:16]
    storage.write_atomically(path, copy, token)


class _Limited(io.RawIOBase):
    """A stream that ends after a number of bytes."""

    def __init__(self, source: IO[bytes], size_bytes: int) -> None:
        self._source = source
        self._left = size_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # as io.RawIOBase calls it
        data = self._source.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


def main(argv: Sequence[str]) -> int:
    """Run `known` or `take`; return the exit code."""
    command, directory = argv[0], Path(argv[1])
    try:
        if command == "known":
            print(json.dumps(known(directory)))
        else:
            print(take(directory, sys.stdin.buffer, int(argv[2])))
    except TrainerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
