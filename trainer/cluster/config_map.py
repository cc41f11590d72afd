"""The model config as a ConfigMap, which holds the labels on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException

from trainer.cluster import api_server
from trainer.errors import ClusterError

_KEY = "models.config"
DEFAULTS_NAME = "classifier-serving"
LABELS_NAME = "classifier-labels"
_OBJECT_LABELS = {
    "app.kubernetes.io/name": "image-classifier",
    "app.kubernetes.io/component": "serving",
}
_ATTEMPTS = 5


class ConfigMapStore:
    """The ConfigMap whose `models.config` the serving pods read (k8s/serving.yaml).

    The manifests create one with the defaults. The first edit creates a second one, which takes precedence.
    So applying the manifests again doesn't move any label back.
    """

    def __init__(self, namespace: str) -> None:
        """Connect to the cluster.

        Raises:
          ClusterError: there is no kubeconfig.
        """
        self._namespace = namespace
        self._api = kubernetes.client.CoreV1Api(api_server.connect())
        self._task = f"let this user get, create and update ConfigMaps in namespace {namespace}"

    def __str__(self) -> str:
        return f"ConfigMap {self._namespace}/{LABELS_NAME}"

    def read(self) -> str:
        """Return its text.

        Raises:
          ClusterError: the cluster does not answer, or has no such ConfigMap.
        """
        with api_server.explain_refusal(self._task):
            return self._text(self._edited() or self._get(DEFAULTS_NAME))

    def edit(self, change: Callable[[str], str]) -> None:
        """Replace its text. When somebody else edits it at the same time, start again from their text.

        Raises:
          ClusterError: the cluster does not answer, or refuses.
        """
        with api_server.explain_refusal(self._task):
            for attempt in range(_ATTEMPTS):
                edited = self._edited()
                text = change(self._text(edited or self._get(DEFAULTS_NAME)))
                try:
                    self._put(edited, text)
                    return
                except ApiException as error:
                    if error.status != 409 or attempt == _ATTEMPTS - 1:
                        raise

    def _edited(self) -> Any:
        """Return the ConfigMap that the first edit created, or None before it."""
        try:
            return self._get(LABELS_NAME)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    def _get(self, name: str) -> Any:
        return self._api.read_namespaced_config_map(name, self._namespace)

    def _put(self, edited: Any, text: str) -> None:
        if edited is not None:  # with its resourceVersion, the API refuses if it has changed since
            edited.data = {_KEY: text}
            self._api.replace_namespaced_config_map(LABELS_NAME, self._namespace, edited)
            return
        self._api.create_namespaced_config_map(
            self._namespace,
            kubernetes.client.V1ConfigMap(
                metadata=kubernetes.client.V1ObjectMeta(name=LABELS_NAME, labels=_OBJECT_LABELS),
                data={_KEY: text},
            ),
        )

    def _text(self, config_map: Any) -> str:
        text = (config_map.data or {}).get(_KEY)
        if text is None:
            raise ClusterError(
                f"ConfigMap {self._namespace}/{config_map.metadata.name} must have the key {_KEY}. Received: "
                f"{', '.join(config_map.data or {}) or 'no keys'}. Apply k8s/ again."
            )
        return str(text)
