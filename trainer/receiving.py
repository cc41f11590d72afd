"""The other end of `push-data`, in a pod at the claim: which files are there, and taking more in.

python -m trainer.receiving known DIR       what is there: a JSON object of path → SHA-256
python -m trainer.receiving take DIR BYTES  a tar of so many bytes on standard input
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
"""PAX header of each member."""

_CHUNK_BYTES = 2**20


def files_of(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a directory, by their path there with `/`; none that are hidden, in order."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of what is left in a file, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def known(directory: Path) -> dict[str, str]:
    """Return the files that are there, with their SHA-256."""
    found = {}
    for name, path in files_of(directory):
        with path.open("rb") as file:
            found[name] = sha256_of(file)
    return found


def take(directory: Path, source: IO[bytes], size_bytes: int) -> int:
    """Write the files of a tar, each whole or not at all; return how many.

    Args:
      size_bytes: of the tar; over a websocket the end of a stream cannot be seen.
    Raises:
      DataError: it is damaged, or not what its checksums say.
      StorageError: the volume takes no more.
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
        raise DataError(f"What was sent is damaged: {error}.") from error
    except OSError as error:
        raise StorageError(f"{directory}: {error.strerror or error}.") from error
    finally:
        while limited.read(_CHUNK_BYTES):  # or who sends would not hear why it was not taken
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
    """So many bytes of a stream, and then its end."""

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
    """Do as the module says; return the exit code."""
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
