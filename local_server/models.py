"""The models that are served, and the labels that stand for versions of them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server.servable import Servable
from local_server.statuses import failed_precondition, invalid_argument, not_found
from local_server.versions import Load, ModelVersions, VersionState

_log = logging.getLogger(__name__)


class Models:
    """What a ModelServerConfig names; thread-safe but for `configure` and `poll`, which one thread calls."""

    def __init__(self, load: Load = Servable, allow_labels_for_unavailable: bool = False) -> None:
        """Set up with no model.

        Args:
          allow_labels_for_unavailable: a label that is new may point at a version that is not loaded yet;
            one that moves never may, so that its callers are never without an answer.
        """
        self._load = load
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._lock = threading.Lock()
        self._models: dict[str, ModelVersions] = {}
        self._labels: dict[str, dict[str, int]] = {}

    def configure(self, config: ModelServerConfig) -> None:
        """Serve what this configuration names, and from the next poll on nothing else.

        Labels first: while a label moves, both its versions are there.

        Raises:
          StatusError: FAILED_PRECONDITION: a label would point at a version that is not there; nothing
            has changed then.
        """
        given = {model.name: model for model in config.model_config_list.config}
        labels = {name: dict(model.version_labels) for name, model in given.items()}
        for name, its_labels in labels.items():
            for label, version in its_labels.items():
                self._check_label(name, label, version)
        models = {}
        for name, model in given.items():
            known = self._models.get(name)
            if known is None or known.base_path != Path(model.base_path):
                known = ModelVersions(name, Path(model.base_path), load=self._load)
            known.policy = model.model_version_policy
            models[name] = known
        with self._lock:
            gone = [model for name, model in self._models.items() if models.get(name) is not model]
            self._models, self._labels = models, labels
        for model in gone:
            model.retire_all()

    def poll(self) -> None:
        """Bring what is loaded in line with what is on disk."""
        for model in self._models.values():
            model.poll()

    def is_ready(self) -> bool:
        """Tell whether every model has a version that answers."""
        return all(model.is_ready() for model in self._models.values())

    def knows(self, name: str) -> bool:
        """Tell whether a model of this name is served, ready or not."""
        with self._lock:
            return name in self._models

    def find(self, spec: model_pb2.ModelSpec) -> Servable:
        """Return what a ModelSpec names, by version, by label or the newest.

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
        """Return the state of each version that a ModelSpec names, the newest first.

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
        """Raise unless a label may point there: UpdateModelVersionLabelMap in server_core.cc."""
        model = self._models.get(name)
        if model and model.has(version):
            return
        before = self._labels.get(name, {}).get(label, version)
        if not self._allow_labels_for_unavailable or before != version:
            raise failed_precondition(
                f"Request to assign label to version {version} of model {name}, which is not currently "
                "available for inference"
            )
