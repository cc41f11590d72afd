"""Connect to the API server of a Kubernetes cluster, and turn its errors into one line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator

import kubernetes
import yaml
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError, MaxRetryError

from trainer.errors import ClusterError

# It logs every connection that it tries again. When all have failed, `explain_refusal` says why.
logging.getLogger("urllib3").setLevel(logging.ERROR)

# What the package raises for a file that is not a kubeconfig depends on what the file holds.
_NOT_A_KUBECONFIG = (ConfigException, yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError, KeyError)

_POD_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


def connect() -> kubernetes.client.ApiClient:
    """Connect with the current kubeconfig, or with the service account of the pod that this runs in.

    Raises:
      ClusterError: there is neither.
    """
    configuration = kubernetes.client.Configuration()
    try:
        if _in_pod():
            kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # the package has no types
        else:
            # By name, because its default is the KUBECONFIG of the time it was imported.
            kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]  # the package has no types
                os.environ.get("KUBECONFIG"), client_configuration=configuration
            )
    except _NOT_A_KUBECONFIG as error:
        raise _no_kubeconfig(error) from error
    return kubernetes.client.ApiClient(configuration)


def current_namespace() -> str:
    """Return the current namespace of the kubeconfig, or that of the pod. Without one it is `default`.

    Raises:
      ClusterError: there is no kubeconfig.
    """
    if _in_pod():
        with contextlib.suppress(OSError), open(_POD_NAMESPACE, encoding="utf-8") as file:
            return file.read().strip()
        return "default"
    try:
        _, active = kubernetes.config.list_kube_config_contexts(  # type: ignore[no-untyped-call]  # the package has no types
            os.environ.get("KUBECONFIG")
        )
    except _NOT_A_KUBECONFIG as error:
        raise _no_kubeconfig(error) from error
    return str(active["context"].get("namespace") or "default")


@contextlib.contextmanager
def explain_refusal(task: str) -> Iterator[None]:
    """Turn the exceptions of the API client inside the block into one line.

    Args:
      task: what the cluster must do; the error begins with "The cluster must" and these words.
    Raises:
      ClusterError: the API server refused, or does not answer.
    """
    try:
        yield
    except ApiException as error:
        advice = {
            401: "Log in again.",
            403: "Ask for that right (k8s/accounts.yaml has a Role), unless a quota or policy is named.",
            404: "Apply k8s/ to that namespace first, or give another --namespace.",
        }.get(error.status, "Check the cluster, and try again.")
        message = _message(error)
        raise ClusterError(
            f"The cluster must {task}. Received: {error.status} {error.reason}"
            f"{f': {message}' if message else ''}. {advice}"
        ) from error
    except HTTPError as error:
        raise ClusterError(
            f"The cluster{_address(error)} does not answer: {_reason(error)}. Check kubectl cluster-info."
        ) from error


def _message(error: ApiException) -> str:
    """Return the details that follow the status, such as the exhausted quota or the wrong field."""
    try:
        message = json.loads(error.body or "{}").get("message", "")
    except (ValueError, AttributeError):
        return ""
    return " ".join(str(message).split()).rstrip(".")


def _address(error: HTTPError) -> str:
    """Return " at HOST:PORT", or nothing if the error does not name the address."""
    pool = getattr(error, "pool", None)
    return f" at {pool.host}:{pool.port}" if pool else ""


def _reason(error: HTTPError) -> str:
    """Return why a connection failed, without the names of urllib3's objects."""
    if isinstance(error, MaxRetryError) and error.reason:
        return _reason(error.reason) if isinstance(error.reason, HTTPError) else str(error.reason)
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", " ".join(str(error).split())).rstrip(".")[:200]


def _no_kubeconfig(error: Exception) -> ClusterError:
    named = f"KUBECONFIG={os.environ['KUBECONFIG']}: " if "KUBECONFIG" in os.environ else ""
    return ClusterError(
        "To reach a cluster, set KUBECONFIG or run in a pod with a service account. "
        f"Received: {named}{' '.join(str(error).split()).rstrip('.')}."
    )


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
