"""A pod that mounts a claim, and the receiver that runs in it (trainer/receiving.py)."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Any, cast

import kubernetes
import kubernetes.stream
import yaml
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError
from websocket import WebSocketException

from trainer.cluster import api_server, pod_states
from trainer.errors import ClusterError, DataError, StorageError

MOUNT_PATH = "/data"
"""Where the claim is mounted in the pod."""

POLL_S = 1.0
CHUNK_BYTES = 2**20
_TRIES = 3  # of one command: connections break


class _LostConnectionError(Exception):
    """The connection broke, or was not made, before the command ended."""


class ReceiverPod:
    """A pod with the claim mounted; it exists inside the `with` block."""

    def __init__(self, namespace: str, claim: str, image: str, timeout_s: float) -> None:
        """Connect to the cluster.

        Args:
          image: of the trainer, which holds the receiver.
          timeout_s: how long the pod may take to start.
        Raises:
          ClusterError: there is no kubeconfig.
        """
        self.name = f"push-data-{secrets.token_hex(4)}"
        self._namespace = namespace
        self._claim = claim
        self._image = image
        self._timeout_s = timeout_s
        self._core = kubernetes.client.CoreV1Api(api_server.connect())

    def __enter__(self) -> ReceiverPod:
        with api_server.explain_refusal(f"let this user create Pods in namespace {self._namespace}"):
            manifest = _manifest(self.name, self._claim, self._image)
            self._core.create_namespaced_pod(self._namespace, cast(Any, manifest))
        try:
            self._wait_until_running()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ApiException, HTTPError):  # its deadline ends it within a day
            self._core.delete_namespaced_pod(self.name, self._namespace, grace_period_seconds=1)

    def run(self, arguments: Sequence[str], content: bytes = b"") -> str:
        """Run the receiver with these arguments; try again when the connection breaks.

        Args:
          content: for its standard input.
        Returns:
          What it printed.
        Raises:
          StorageError, DataError: the receiver refused the content.
          ClusterError: the connection keeps breaking, or this user may not run commands in pods.
        """
        tries = 0
        while True:
            try:
                return self._run_once(arguments, content)
            except _LostConnectionError as error:
                tries += 1
                if tries == _TRIES:
                    raise ClusterError(
                        f"The connection to pod {self.name} keeps breaking: {error}. Run the same command "
                        "again: it skips the files that have arrived."
                    ) from error
                time.sleep(POLL_S)

    def _run_once(self, arguments: Sequence[str], content: bytes) -> str:
        connection = self._connect(["python", "-m", "trainer.receiving", *arguments], bool(content))
        try:
            for start in range(0, len(content), CHUNK_BYTES):
                connection.write_stdin(content[start : start + CHUNK_BYTES])
            connection.run_forever()
            errors = connection.read_stderr() or ""
            printed: str = connection.read_stdout() or ""
            code = _return_code(connection)
        except (WebSocketException, OSError) as error:
            raise _LostConnectionError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
            connection.sock.shutdown()  # `close` leaves the socket open if the other end closed first
        if code == StorageError.exit_code:
            raise StorageError(f"Claim {self._claim}: {pod_states.one_line(errors)}")
        if code:
            raise DataError(f"Pod {self.name} cannot take the files: {pod_states.one_line(errors)}")
        return printed

    def _connect(self, command: list[str], has_input: bool) -> Any:
        try:
            # A client of its own, because `stream` replaces the way a client sends requests.
            api = kubernetes.client.CoreV1Api(api_server.connect())
            return kubernetes.stream.stream(
                api.connect_get_namespaced_pod_exec,
                self.name,
                self._namespace,
                command=command,
                stdin=has_input,
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
            )
        except ApiException as error:
            reason, _, _ = pod_states.one_line(error.reason).partition(" -+-+- ")  # headers and body
            if not reason.startswith("Handshake status"):
                raise _LostConnectionError(reason) from error  # no answer
            raise ClusterError(
                f"The cluster must let this user run commands in Pods (pods/exec) in namespace "
                f"{self._namespace}. Received: {reason}. Ask for that right (k8s/accounts.yaml has a Role)."
            ) from error

    def _wait_until_running(self) -> None:
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
                reasons = [
                    *pod_states.describe(pod),
                    *(pod_states.one_line(event.message) for event in events),
                ]
                raise ClusterError(
                    f"Pod {self.name} must run within {self._timeout_s:g} s to take the files. Received: "
                    f"{' '.join(dict.fromkeys(reasons)) or pod.status.phase}"
                )
            time.sleep(POLL_S)


def _return_code(connection: Any) -> int:
    """Return the command's exit code, from the last message of the connection.

    Raises:
      _LostConnectionError: there was no such message.
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
    """Return a pod that meets Pod Security `restricted`, and sleeps for at most a day."""
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
        "volumeMounts": [{"name": "data", "mountPath": MOUNT_PATH}],
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
