"""An archive of images from somewhere → a folder, whole or not there: the optional first step of a Job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from trainer.errors import ConfigError, DataError, StorageError
from trainer.runtime import archives, storage

MARKER = ".fetched.json"
"""In the folder: where its content is from."""

_CHUNK_BYTES = 2**20
_SPLITS = ("train", "validation", "test")
_SCHEMES = ("https", "http", "s3", "gs", "file")


def fetch(url: str, directory: Path, sha256: str | None) -> bool:
    """Fetch an archive and unpack it, unless that has been done; return whether it had to be.

    A single folder at its top is left out, unless it is one of the splits. Of several that are started at
    once, such as the workers of one Job, the first fetches and the others wait for it.

    Args:
      url: https, s3 or gs, as fsspec opens them; http with `sha256` only.
      directory: new or empty; appears when everything is in it.
      sha256: of the archive, in hexadecimal.
    Raises:
      ConfigError: URL or checksum cannot be used, a package is missing, or the folder holds something else.
      DataError: the archive is not what the checksum says, damaged, or would write elsewhere.
      StorageError: it cannot be read from there, or the volume takes no more.
    """
    _check(url, sha256)
    origin = {"url": url, "sha256": sha256.lower() if sha256 else None}
    with storage.explain_errors("The images cannot be fetched", directory), _locked(directory):
        if _is_there(directory, origin):
            return False
        for old in directory.parent.glob(f".{directory.name}.*.fetching"):
            shutil.rmtree(old)
        staging = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.fetching")
        staging.mkdir()
        try:
            archive = staging / "archive"
            _download(url, archive, sha256)
            _unpack(archive, staging / "content")
            content = _without_single_folder(staging / "content")
            (content / MARKER).write_text(json.dumps(origin))
            storage.sync_tree(content)
            os.rename(content, directory)  # takes the place of an empty one
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return True


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other process fetches into the directory, and keep others out while the block runs."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = directory.with_name(f".{directory.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.locked(lock, wait=False))
        except BlockingIOError:
            print(f"Waiting for another process that fetches into {directory}.", file=sys.stderr, flush=True)
            stack.enter_context(storage.locked(lock))
        yield


def _check(url: str, sha256: str | None) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise ConfigError(f"URL must begin with one of {', '.join(_SCHEMES)}, and ://. Received: {url}.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"--sha256 must have 64 hexadecimal digits. Received: {sha256!r}.")
    if scheme == "http" and sha256 is None:
        raise ConfigError("Over http anybody could have changed the archive: give --sha256, or an https URL.")


def _is_there(directory: Path, origin: dict[str, str | None]) -> bool:
    if not directory.exists() or not any(directory.iterdir()):
        return False
    marker = directory / MARKER
    found = json.loads(marker.read_text()) if marker.is_file() else None
    same_content = found and found["sha256"] and found["sha256"] == origin["sha256"]
    if found == origin or same_content:
        return True
    held = f"what was fetched from {found['url']}" if found else "other files"
    raise ConfigError(
        f"DIR must be new or empty. Received: {directory}, which holds {held}. Remove it first."
    )


def _download(url: str, archive: Path, sha256: str | None) -> None:
    try:
        import fsspec

        source = fsspec.open(url, "rb")
    except ImportError as error:
        raise ConfigError(
            f"{url} needs the extra `fetch` ({error}): pip install 'image-classifier-on-kubernetes[fetch]'"
        ) from error
    digest = hashlib.sha256()
    with archive.open("wb") as target:
        try:
            with source as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
        except Exception as error:  # of aiohttp, botocore, google: they have no class in common
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StorageError(f"{url} cannot be read: {reason[:300]}.") from error
    if sha256 is not None and digest.hexdigest() != sha256.lower():
        raise DataError(f"{url} must have the SHA-256 {sha256.lower()}. Received: {digest.hexdigest()}.")


def _unpack(archive: Path, target: Path) -> None:
    target.mkdir()
    count = 0
    with archives.opened(archive) as members:
        for member in members:
            free = shutil.disk_usage(target).free
            if member.size_bytes > free:
                raise StorageError(
                    f"The volume needs {member.size_bytes:,} bytes for {member.path}. It has {free:,}. Make "
                    "room."
                )
            path = target.joinpath(*member.path.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(member.content, file, _CHUNK_BYTES)
            count += 1
    if not count:
        raise DataError("The archive must hold files. Received: none.")


def _without_single_folder(content: Path) -> Path:
    entries = list(content.iterdir())
    single = len(entries) == 1 and entries[0].is_dir() and entries[0].name not in _SPLITS
    return entries[0] if single else content
