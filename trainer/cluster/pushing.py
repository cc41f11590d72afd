"""A folder of images → the claim that training Jobs read, through a pod that holds it open."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import secrets
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import kubernetes
import kubernetes.stream
import yaml
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError
from websocket import WebSocketException

from trainer import receiving
from trainer.cluster import api_server, pod_states
from trainer.errors import ClusterError, DataError, StorageError
from trainer.runtime import progress

POLL_S = 1.0

_SHARD_BYTES = 64 * 2**20
_SHARD_FILES = 1_000
_CHUNK_BYTES = 2**20
# Of one command: connections break, and a shard of which a part has arrived is sent again.
_TRIES = 3
_MOUNT = "/data"
_LOST = (WebSocketException, OSError)

Local = tuple[str, Path, str]
"""Path on the claim, file here, SHA-256."""


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a push has done: files in all, bytes sent, files that were there already."""

    files: int
    sent_bytes: int
    already: int


def push(directory: Path, namespace: str, claim: str, image: str, timeout_s: float) -> Pushed:
    """Send the files that the claim does not have; nothing there is removed.

    Args:
      image: of the trainer, which is what receives them.
      timeout_s: within which the pod must run.
    Raises:
      DataError: the directory is none, or holds no files.
      ClusterError: the cluster refuses, the pod does not run in time, or the connection keeps breaking.
      StorageError: the volume takes no more.
    """
    files = _files(directory)
    with _Pod(namespace, claim, image, timeout_s) as pod:
        there = json.loads(_with_tries(pod, ["known", _MOUNT]))
        missing = [file for file in files if there.get(file[0]) != file[2]]
        sent_bytes = 0
        with progress.bar("pushing", len(missing)) as advance:
            for shard in _shards(missing):
                content = _tar(shard)
                _with_tries(pod, ["take", _MOUNT, str(len(content))], content)
                sent_bytes += len(content)
                advance(len(shard))
    return Pushed(len(files), sent_bytes, len(files) - len(missing))


def _files(directory: Path) -> list[Local]:
    if not directory.is_dir():
        raise DataError(f"DIR must be a directory with images. Received: {directory}.")
    files = []
    for name, path in receiving.files_of(directory):
        try:
            with path.open("rb") as file:
                files.append((name, path, receiving.sha256_of(file)))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not files:
        raise DataError(f"DIR must hold files. Received: {directory}, which has none that are not hidden.")
    return files


def _shards(files: Sequence[Local]) -> Iterator[list[Local]]:
    shard: list[Local] = []
    size = 0
    for file in files:
        shard.append(file)
        size += file[1].stat().st_size
        if size >= _SHARD_BYTES or len(shard) == _SHARD_FILES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _tar(shard: Sequence[Local]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path, checksum in shard:
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {receiving.CHECKSUM: checksum}
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _with_tries(pod: _Pod, arguments: Sequence[str], content: bytes = b"") -> str:
    tries = 0
    while True:
        try:
            return pod.run(arguments, content)
        except _LostConnectionError as error:
            tries += 1
            if tries == _TRIES:
                raise ClusterError(
                    f"The connection to pod {pod.name} keeps breaking: {error}. What has arrived stays: run "
                    "the same command again, and it goes on."
                ) from error
            time.sleep(POLL_S)


class _LostConnectionError(Exception):
    pass


class _Pod:
    """A pod with the claim at /data, which is there as long as the block."""

    def __init__(self, namespace: str, claim: str, image: str, timeout_s: float) -> None:
        self.name = f"push-data-{secrets.token_hex(4)}"
        self._namespace = namespace
        self._claim = claim
        self._image = image
        self._timeout_s = timeout_s
        self._core = kubernetes.client.CoreV1Api(api_server.connect())

    def __enter__(self) -> _Pod:
        with api_server.explain_refusal(f"let this user create Pods in namespace {self._namespace}"):
            manifest = _manifest(self.name, self._claim, self._image)
            self._core.create_namespaced_pod(self._namespace, cast(Any, manifest))
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ApiException, HTTPError):  # it ends by itself in a day
            self._core.delete_namespaced_pod(self.name, self._namespace, grace_period_seconds=1)

    def run(self, arguments: Sequence[str], content: bytes = b"") -> str:
        """Run the receiver in it; return what it prints.

        Raises:
          _LostConnectionError: before it had ended.
          StorageError, DataError: it refused.
          ClusterError: commands cannot be run in pods.
        """
        command = ["python", "-m", "trainer.receiving", *arguments]
        try:
            # A client of its own: `stream` replaces its way of asking.
            api = kubernetes.client.CoreV1Api(api_server.connect())
            connection: Any = kubernetes.stream.stream(
                api.connect_get_namespaced_pod_exec,
                self.name,
                self._namespace,
                command=command,
                stdin=bool(content),
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
            )
        except ApiException as error:
            reason, _, _ = pod_states.one_line(error.reason).partition(" -+-+- ")  # headers and body
            if not reason.startswith("Handshake status"):
                raise _LostConnectionError(reason) from error  # nobody has answered
            raise ClusterError(
                f"The cluster must let this user run commands in Pods (pods/exec) in namespace "
                f"{self._namespace}. Received: {reason}. Ask for that right (k8s/accounts.yaml has a Role)."
            ) from error
        try:
            for start in range(0, len(content), _CHUNK_BYTES):
                connection.write_stdin(content[start : start + _CHUNK_BYTES])
            connection.run_forever()
            said = connection.read_stderr() or ""
            printed: str = connection.read_stdout() or ""
            code = _return_code(connection)
        except _LOST as error:
            raise _LostConnectionError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
            connection.sock.shutdown()  # `close` leaves the socket open where the other end was faster
        if code == StorageError.exit_code:
            raise StorageError(f"Claim {self._claim}: {pod_states.one_line(said)}")
        if code:
            raise DataError(f"Pod {self.name} cannot take the files: {pod_states.one_line(said)}")
        return printed

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            with api_server.explain_refusal(
                f"let this user get Pods and Events in namespace {self._namespace}"
            ):
                pod: Any = self._core.read_namespaced_pod(self.name, self._namespace)
                if any(status.state.running for status in pod_states.statuses(pod)):
                    return
                events = self._core.list_namespaced_event(
                    self._namespace, field_selector=f"involvedObject.name={self.name},type=Warning"
                ).items
            if time.monotonic() > deadline or pod.status.phase in ("Failed", "Succeeded"):
                said = [*pod_states.describe(pod), *(pod_states.one_line(event.message) for event in events)]
                raise ClusterError(
                    f"Pod {self.name} must run within {self._timeout_s:g} s to take the files. Received: "
                    f"{' '.join(dict.fromkeys(said)) or pod.status.phase}"
                )
            time.sleep(POLL_S)


def _return_code(connection: Any) -> int:
    """Return the command's exit code, as the connection's last message says it.

    Raises:
      _LostConnectionError: it said nothing.
    """
    message = connection.read_channel(kubernetes.stream.ws_client.ERROR_CHANNEL)
    status = yaml.safe_load(message) if message else None
    if not status:
        raise _LostConnectionError("it ended before the command")
    if status.get("status") == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or [{}]
    code = str(causes[0].get("message", ""))
    return int(code) if code.isdecimal() else 1


def _manifest(name: str, claim: str, image: str) -> dict[str, Any]:
    """Return a pod that meets Pod Security `restricted`, and does nothing for at most a day."""
    container = {
        "name": "receiver",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": _MOUNT}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "image-classifier",
                "app.kubernetes.io/component": "data",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 86_400,
            "automountServiceAccountToken": False,
            "serviceAccountName": "classifier-training",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
