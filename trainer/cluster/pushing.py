"""Send a folder of images to the claim that training Jobs read."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer import receiving
from trainer.cluster.receiver_pod import MOUNT_PATH, ReceiverPod
from trainer.errors import DataError
from trainer.runtime import progress

# One shard is one command in the pod. When its connection breaks, the whole shard is sent again.
SHARD_BYTES = 64 * 2**20
SHARD_FILES = 1_000


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
      files: in the folder.
      sent_bytes: of the files that the claim did not have.
      skipped: files that the claim had already.
    """

    files: int
    sent_bytes: int
    skipped: int


class _LocalFile(NamedTuple):
    """A file to send: its path on the claim, its path here, its SHA-256."""

    name: str
    path: Path
    sha256: str


def push(directory: Path, namespace: str, claim: str, image: str, timeout_s: float) -> Pushed:
    """Send the files that the claim does not have. Nothing on the claim is removed.

    Args:
      image: of the trainer, which receives the files in a pod.
      timeout_s: how long that pod may take to start.
    Raises:
      DataError: there is no such directory, or it holds no files.
      ClusterError: the cluster refuses, the pod does not start in time, or the connection keeps breaking.
      StorageError: the volume is full or cannot be written.
    """
    files = _read_files(directory)
    with ReceiverPod(namespace, claim, image, timeout_s) as pod:
        known = json.loads(pod.run(["known", MOUNT_PATH]))
        missing = [file for file in files if known.get(file.name) != file.sha256]
        sent_bytes = 0
        with progress.bar("pushing", len(missing)) as advance:
            for shard in _shards(missing):
                content = _tar(shard)
                pod.run(["take", MOUNT_PATH, str(len(content))], content)
                sent_bytes += len(content)
                advance(len(shard))
    return Pushed(len(files), sent_bytes, len(files) - len(missing))


def _read_files(directory: Path) -> list[_LocalFile]:
    if not directory.is_dir():
        raise DataError(f"DIR must be a directory with images. Received: {directory}.")
    files = []
    for name, path in receiving.files_of(directory):
        try:
            with path.open("rb") as file:
                files.append(_LocalFile(name, path, receiving.sha256_of(file)))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not files:
        raise DataError(f"DIR must hold files. Received: {directory}, which has only hidden files or none.")
    return files


def _shards(files: Sequence[_LocalFile]) -> Iterator[list[_LocalFile]]:
    shard: list[_LocalFile] = []
    size_bytes = 0
    for file in files:
        shard.append(file)
        size_bytes += file.path.stat().st_size
        if size_bytes >= SHARD_BYTES or len(shard) == SHARD_FILES:
            yield shard
            shard, size_bytes = [], 0
    if shard:
        yield shard


def _tar(shard: Sequence[_LocalFile]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in shard:
            content = file.path.read_bytes()
            member = tarfile.TarInfo(file.name)
            member.size = len(content)
            member.pax_headers = {receiving.CHECKSUM: file.sha256}
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
