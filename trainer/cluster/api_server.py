"""A connection to a Kubernetes cluster, and its refusals in words."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator

import kubernetes
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError, MaxRetryError

from trainer.errors import ClusterError

# Or it tells of every connection that it tries again; when all have failed, `explaining` says why.
logging.getLogger("urllib3").setLevel(logging.ERROR)

_POD_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


def connect() -> kubernetes.client.ApiClient:
    """Connect by the current kubeconfig, or as a pod of the cluster.

    Raises:
      ClusterError: neither is there.
    """
    configuration = kubernetes.client.Configuration()
    try:
        if _in_pod():
            kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # the package has no types
        else:
            # By name: its own default is what KUBECONFIG was when it was imported.
            kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]  # the package has no types
                os.environ.get("KUBECONFIG"), client_configuration=configuration
            )
    except ConfigException as error:
        reason = str(error).rstrip(".")
        raise ClusterError(
            f"A kubeconfig, or a pod's service account, is needed to reach a cluster. Received: {reason}. "
            "Set KUBECONFIG."
        ) from error
    return kubernetes.client.ApiClient(configuration)


def current_namespace() -> str:
    """Return the kubeconfig's current namespace, or that of the pod; else `default`.

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
    except ConfigException as error:
        raise ClusterError(
            f"A kubeconfig is needed to reach a cluster. Received: {str(error).rstrip('.')}. Set KUBECONFIG."
        ) from error
    return str(active["context"].get("namespace") or "default")


@contextlib.contextmanager
def explain_refusal(task: str) -> Iterator[None]:
    """Turn what the API client raises into one line.

    Args:
      task: what the cluster must do, to follow "The cluster must".
    Raises:
      ClusterError: the API refused, or does not answer.
    """
    try:
        yield
    except ApiException as error:
        advice = {
            401: "Log in again.",
            403: "Unless a quota or policy is named, ask for that right (k8s/accounts.yaml has a Role).",
            404: "Apply k8s/ there first, or name another --namespace.",
        }.get(error.status, "Look at the cluster, and try again.")
        said = _message(error)
        raise ClusterError(
            f"The cluster must {task}. Received: {error.status} {error.reason}{f': {said}' if said else ''}. "
            f"{advice}"
        ) from error
    except HTTPError as error:
        raise ClusterError(
            f"The cluster{_address(error)} does not answer: {_reason(error)}. Check kubectl cluster-info."
        ) from error


def _message(error: ApiException) -> str:
    """Return what the API says beside the status: which quota is used up, which field is wrong."""
    try:
        message = json.loads(error.body or "{}").get("message", "")
    except (ValueError, AttributeError):
        return ""
    return " ".join(str(message).split()).rstrip(".")


def _address(error: HTTPError) -> str:
    """Return where the connection was to lead, to follow "The cluster"; empty: the error does not say."""
    pool = getattr(error, "pool", None)
    return f" at {pool.host}:{pool.port}" if pool else ""


def _reason(error: HTTPError) -> str:
    """Return why a connection failed, without the names of urllib3's objects."""
    if isinstance(error, MaxRetryError) and error.reason:
        return _reason(error.reason) if isinstance(error.reason, HTTPError) else str(error.reason)
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", " ".join(str(error).split())).rstrip(".")[:200]


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
