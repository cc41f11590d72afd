"""The configured models and their version labels."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path

from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.servable import Servable
from local_server.statuses import failed_precondition, invalid_argument, not_found
from local_server.versions import Load, LoadRetries, ModelVersions, VersionState

_log = logging.getLogger(__name__)


class Models:
    """The models of a ModelServerConfig.

    Thread-safe, except `configure`, `poll`, `load_due` and `retry_at`, which must be called from one thread.
    """

    def __init__(
        self,
        load: Load = Servable,
        allow_labels_for_unavailable: bool = False,
        retries: LoadRetries | None = None,
    ) -> None:
        """Start without models.

        Args:
          load: loads one version.
          allow_labels_for_unavailable: whether a new label may point at a version that is not loaded yet.
            An existing label may never move to such a version, so its callers always get an answer.
          retries: for versions that fail to load; None has TensorFlow Serving's defaults.
        """
        self._load = load
        self._retries = retries
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._lock = threading.Lock()
        self._models: dict[str, ModelVersions] = {}
        self._labels: dict[str, dict[str, int]] = {}

    def configure(self, config: ModelServerConfig) -> None:
        """Apply a configuration: its labels at once, its models and versions with the next poll.

        A label moves before its old version is retired, so calls by label always find a loaded version.

        Raises:
          StatusError: FAILED_PRECONDITION if a label would point at a version that is not loaded. The
            previous configuration then stays in force.
        """
        configured = {model.name: model for model in config.model_config_list.config}
        labels = {name: dict(model.version_labels) for name, model in configured.items()}
        for name, versions_by_label in labels.items():
            for label, version in versions_by_label.items():
                self._check_label(name, label, version)
        models = {}
        for name, model in configured.items():
            versions = self._models.get(name)
            if versions is None or versions.base_path != Path(model.base_path):
                versions = ModelVersions(name, Path(model.base_path), load=self._load, retries=self._retries)
            versions.policy = model.model_version_policy
            models[name] = versions
        with self._lock:
            removed = [model for name, model in self._models.items() if models.get(name) is not model]
            self._models, self._labels = models, labels
        for model in removed:
            model.retire_all()

    def poll(self) -> None:
        """Load new versions and retire old ones, as the disk and the policies say."""
        for model in self._models.values():
            model.poll()

    def load_due(self) -> None:
        """Load the versions that failed and are due for another try."""
        for model in self._models.values():
            model.load_due()

    def retry_at(self) -> float:
        """Return when `load_due` has something to do, in time.monotonic() seconds; infinity for never."""
        return min((model.retry_at() for model in self._models.values()), default=math.inf)

    def is_ready(self) -> bool:
        """Return whether every model has a loaded version."""
        return all(model.is_ready() for model in self._models.values())

    def is_configured(self, name: str) -> bool:
        """Return whether a model has this name, ready or not."""
        with self._lock:
            return name in self._models

    def find(self, spec: model_pb2.ModelSpec) -> Servable:
        """Return the loaded version that a ModelSpec names: by number, by label, or the newest.

        Raises:
          StatusError: NOT_FOUND or INVALID_ARGUMENT.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        version = self._version(spec)
        with self._lock:
            model = self._models.get(spec.name)
        if model is None:
            request = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise not_found(f"Servable not found for request: {request}")
        return model.find(version)

    def states(self, spec: model_pb2.ModelSpec) -> dict[int, VersionState]:
        """Return the states of the versions that a ModelSpec names, newest first.

        Raises:
          StatusError: NOT_FOUND or INVALID_ARGUMENT.
        """
        version = self._version(spec)
        with self._lock:
            model = self._models.get(spec.name)
        states = model.states() if model else {}
        if version is not None:
            states = {number: state for number, state in states.items() if number == version}
            if not states:
                raise not_found(f"Could not find version {version} of model {spec.name}")
        if not states:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return states

    def _version(self, spec: model_pb2.ModelSpec) -> int | None:
        if spec.version_label:
            with self._lock:
                version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return version
        return spec.version.value if spec.HasField("version") else None

    def _check_label(self, name: str, label: str, version: int) -> None:
        """Raise StatusError unless the label may point at the version.

        Source: UpdateModelVersionLabelMap in tensorflow_serving/model_servers/server_core.cc.
        """
        model = self._models.get(name)
        if model and model.is_loaded(version):
            return
        current = self._labels.get(name, {}).get(label, version)
        if not self._allow_labels_for_unavailable or current != version:
            raise failed_precondition(
                f"Request to assign label to version {version} of model {name}, which is not currently "
                "available for inference"
            )
