"""Fetch an archive of images and unpack it into a folder: the optional first step of a Job."""

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
"""A file in the folder that says where its content came from."""

_CHUNK_BYTES = 2**20
_SPLITS = ("train", "validation", "test")
_SCHEMES = ("https", "http", "s3", "gs", "file")


def fetch(url: str, directory: Path, sha256: str | None) -> bool:
    """Fetch an archive and unpack it, unless the folder already has its content.

    If the archive has a single folder at its top, other than a split, the content of that folder is unpacked.
    When several processes start at once, such as the workers of one Job, one fetches and the others wait.

    Args:
      url: https, s3 or gs, as fsspec opens them; http only with `sha256`.
      directory: new or empty. It appears once it is complete.
      sha256: of the archive, in hexadecimal.
    Returns:
      Whether it was fetched; False if the folder had the content.
    Raises:
      ConfigError: URL or checksum cannot be used, a package is missing, or the folder holds something else.
      DataError: the archive does not match the checksum, is damaged, or would write outside the folder.
      StorageError: the URL cannot be read, or the volume is full or cannot be written.
    """
    _check(url, sha256)
    origin = {"url": url, "sha256": sha256.lower() if sha256 else None}
    with storage.explain_errors("The images cannot be fetched", directory), _locked(directory):
        if _has_content(directory, origin):
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
            os.rename(content, directory)  # replaces an empty folder
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
        raise ConfigError(
            f"URL must begin with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}. Received: {url}."
        )
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"--sha256 must have 64 hexadecimal digits. Received: {sha256!r}.")
    if scheme == "http" and sha256 is None:
        raise ConfigError(
            f"An http URL needs --sha256, because http does not protect the archive. Received: {url}."
        )


def _has_content(directory: Path, origin: dict[str, str | None]) -> bool:
    if not directory.exists() or not any(directory.iterdir()):
        return False
    marker = directory / MARKER
    found = json.loads(marker.read_text()) if marker.is_file() else None
    same_content = found and found["sha256"] and found["sha256"] == origin["sha256"]
    if found == origin or same_content:
        return True
    content = f"what was fetched from {found['url']}" if found else "other files"
    raise ConfigError(
        f"DIR must be new or empty. Received: {directory}, which holds {content}. Remove it first."
    )


def _download(url: str, archive: Path, sha256: str | None) -> None:
    try:
        import fsspec

        source = fsspec.open(url, "rb")
    except ImportError as error:
        raise ConfigError(
            f"{url} needs the packages of the extra `fetch`. Received: {error}. "
            "Run pip install 'image-classifier-on-kubernetes[fetch]'."
        ) from error
    digest = hashlib.sha256()
    with archive.open("wb") as target:
        try:
            with source as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
        except Exception as error:  # those of aiohttp, botocore and google have no common base
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
                    f"The volume must have {member.size_bytes:,} bytes free for {member.path}. Received: "
                    f"{free:,} bytes. Free some space."
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
