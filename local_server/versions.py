"""Which versions of a model are loaded: watches a base path, loads new versions, then retires old ones."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

from local_server.servable import Servable
from local_server.statuses import from_tensorflow, not_found

Policy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy
Load: TypeAlias = "Callable[[str, int, Path], Servable]"
"""From model name, version and directory to what answers."""

_ModelVersionStatus = get_model_status_pb2.ModelVersionStatus

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VersionState:
    """What GetModelStatus says of a version: a ModelVersionStatus.State; error code 0 is OK."""

    state: int
    error_code: int = 0
    error_message: str = ""


class ModelVersions:
    """The versions of one model.

    As with TensorFlow Serving the policy says which versions on disk are to be served, old ones are
    retired only when a new one is ready, and a version that failed to load is not tried again until it
    has been removed. A call that has begun on a retired version ends on it: the session lives as long
    as somebody holds the servable.
    """

    def __init__(
        self, name: str, base_path: Path, policy: Policy | None = None, load: Load = Servable
    ) -> None:
        """Set up; nothing is loaded before the first poll.

        Args:
          policy: latest { num_versions: N }, all { } or specific { versions: … }; None: the latest one.
        """
        self.name = name
        self.base_path = base_path
        self.policy = policy or Policy()
        self._load_servable = load
        self._lock = threading.Lock()
        self._loaded: dict[int, Servable] = {}
        self._states: dict[int, VersionState] = {}
        self._retired: list[Servable] = []
        self._waiting_for = ""

    def find(self, version: int | None) -> Servable:
        """Return the servable of that version, or the newest.

        Raises:
          StatusError: NOT_FOUND.
        """
        with self._lock:
            if version is None and self._loaded:
                return self._loaded[max(self._loaded)]
            if version in self._loaded:
                return self._loaded[version]
        request = f"Latest({self.name})" if version is None else f"Specific({self.name}, {version})"
        raise not_found(f"Servable not found for request: {request}")

    def states(self) -> dict[int, VersionState]:
        """Return the state of each version seen so far, the newest first."""
        with self._lock:
            return dict(sorted(self._states.items(), reverse=True))

    def has(self, version: int) -> bool:
        """Tell whether a version answers."""
        with self._lock:
            return version in self._loaded

    def is_ready(self) -> bool:
        """Tell whether any version answers."""
        with self._lock:
            return bool(self._loaded)

    def poll(self) -> None:
        """Bring what is loaded in line with what is on disk; called from one thread."""
        self._retired.clear()
        on_disk = self._versions_on_disk()
        if on_disk is None:
            return  # a base path that cannot be read for a moment takes no version away
        wanted = self._wanted(on_disk)
        if not wanted:
            self._say_waiting(f"no version to serve, a folder named by an integer, in {self.base_path}")
        else:
            self._waiting_for = ""
        with self._lock:
            # One that failed and is gone from disk may come back mended.
            for version in set(self._states) - on_disk - set(self._loaded):
                if self._states[version].error_code:
                    del self._states[version]
            to_load = [version for version in wanted if version not in self._loaded]
            to_load = [version for version in to_load if not self._failed(version)]
        for version in to_load:
            self._load(version)
        with self._lock:
            if not wanted or set(wanted) & set(self._loaded):
                for version in set(self._loaded) - set(wanted):
                    self._retire(version)

    def retire_all(self) -> None:
        """Serve this model no more."""
        with self._lock:
            for version in list(self._loaded):
                self._retire(version)

    def _wanted(self, on_disk: set[int]) -> list[int]:
        """Return the versions that are to be served, the newest first."""
        newest_first = sorted(on_disk, reverse=True)
        choice = self.policy.WhichOneof("policy_choice")
        if choice == "all":
            return newest_first
        if choice == "specific":
            return [version for version in newest_first if version in self.policy.specific.versions]
        return newest_first[: self.policy.latest.num_versions or 1]

    def _failed(self, version: int) -> bool:
        state = self._states.get(version)
        return state is not None and state.error_code != 0

    def _versions_on_disk(self) -> set[int] | None:
        try:
            entries = list(self.base_path.iterdir())
        except OSError as error:
            self._say_waiting(f"{self.base_path}: {error.strerror}")
            return None
        return {int(entry.name) for entry in entries if entry.name.isdecimal() and entry.is_dir()}

    def _say_waiting(self, reason: str) -> None:
        """Log a reason once, and not at every poll."""
        if reason != self._waiting_for:
            _log.warning("%s: waiting: %s", self.name, reason)
            self._waiting_for = reason

    def _load(self, version: int) -> None:
        self._set(version, VersionState(_ModelVersionStatus.LOADING))
        _log.info("%s: loading version %d", self.name, version)
        try:
            servable = self._load_servable(self.name, version, self.base_path / str(version))
        except Exception as error:  # whatever a damaged SavedModel raises: the versions before stay
            _log.exception("%s: version %d cannot be loaded", self.name, version)
            code = from_tensorflow(getattr(error, "error_code", 2)).value[0]
            self._set(version, VersionState(_ModelVersionStatus.END, code, str(error)))
            return
        with self._lock:
            self._loaded[version] = servable
            self._states[version] = VersionState(_ModelVersionStatus.AVAILABLE)
        _log.info(
            "%s: serving version %d, warmed by %d requests", self.name, version, servable.warmup_requests
        )

    def _retire(self, version: int) -> None:
        # Its memory is given back with the next poll: that takes 40 ms, in which calls wait, and the first
        # ones to the new version are not to be those.
        self._retired.append(self._loaded.pop(version))
        self._states[version] = VersionState(_ModelVersionStatus.END)
        _log.info("%s: retired version %d", self.name, version)

    def _set(self, version: int, state: VersionState) -> None:
        with self._lock:
            self._states[version] = state
