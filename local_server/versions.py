"""The loaded versions of one model: watches the base path, loads new versions, then retires old ones."""

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
from local_server.statuses import code_from_tensorflow, not_found

Policy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy
Load: TypeAlias = "Callable[[str, int, Path], Servable]"
"""Loads one version, given the model's name, the version number and the version's directory."""

_ModelVersionStatus = get_model_status_pb2.ModelVersionStatus

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VersionState:
    """The state of a version in GetModelStatus: a ModelVersionStatus.State and an error, code 0 if none."""

    state: int
    error_code: int = 0
    error_message: str = ""


class ModelVersions:
    """The versions of one model.

    The rules are TensorFlow Serving's. The policy selects which versions on disk to serve. Old versions are
    retired only once a new one is ready. A version that failed to load is tried again only after it was
    removed from disk. Calls that are running on a retired version finish on it, because each call holds a
    reference to its servable.
    """

    def __init__(
        self, name: str, base_path: Path, policy: Policy | None = None, load: Load = Servable
    ) -> None:
        """Start without versions; the first poll loads them.

        Args:
          name: of the model.
          base_path: directory with the versions.
          policy: latest { num_versions: N }, all { } or specific { versions: … }; None serves the latest.
          load: loads one version.
        """
        self.name = name
        self.base_path = base_path
        self.policy = policy or Policy()
        self._load_servable = load
        self._lock = threading.Lock()
        self._loaded: dict[int, Servable] = {}
        self._states: dict[int, VersionState] = {}
        self._retired: list[Servable] = []
        self._last_warning = ""

    def find(self, version: int | None) -> Servable:
        """Return the servable of a version; None is the newest loaded version.

        Raises:
          StatusError: NOT_FOUND if the version is not loaded.
        """
        with self._lock:
            if version is None and self._loaded:
                return self._loaded[max(self._loaded)]
            if version in self._loaded:
                return self._loaded[version]
        request = f"Latest({self.name})" if version is None else f"Specific({self.name}, {version})"
        raise not_found(f"Servable not found for request: {request}")

    def states(self) -> dict[int, VersionState]:
        """Return the state of each version seen so far, newest first."""
        with self._lock:
            return dict(sorted(self._states.items(), reverse=True))

    def is_loaded(self, version: int) -> bool:
        """Return whether a version is loaded."""
        with self._lock:
            return version in self._loaded

    def is_ready(self) -> bool:
        """Return whether any version is loaded."""
        with self._lock:
            return bool(self._loaded)

    def poll(self) -> None:
        """Load new versions and retire old ones; called from one thread."""
        self._retired.clear()
        on_disk = self._versions_on_disk()
        if on_disk is None:
            return  # keep serving: a shared disk may be unreachable for a moment
        wanted = self._wanted(on_disk)
        if not wanted:
            self._warn_once(
                f"found no version to serve in {self.base_path}. A version is a directory whose name is a "
                "number."
            )
        else:
            self._last_warning = ""
        with self._lock:
            # A failed version that was removed from disk may come back fixed.
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
        """Stop serving this model."""
        with self._lock:
            for version in list(self._loaded):
                self._retire(version)

    def _wanted(self, on_disk: set[int]) -> list[int]:
        """Return the versions that the policy selects, newest first."""
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
            self._warn_once(f"cannot read {self.base_path}: {error.strerror}.")
            return None
        return {int(entry.name) for entry in entries if entry.name.isdecimal() and entry.is_dir()}

    def _warn_once(self, problem: str) -> None:
        """Log why there is nothing to load, unless the last poll logged the same."""
        if problem != self._last_warning:
            _log.warning("Model %s: waiting for a version: %s", self.name, problem)
            self._last_warning = problem

    def _load(self, version: int) -> None:
        self._set(version, VersionState(_ModelVersionStatus.LOADING))
        _log.info("Model %s: loading version %d", self.name, version)
        try:
            servable = self._load_servable(self.name, version, self.base_path / str(version))
        except Exception as error:  # a damaged SavedModel raises many types, and older versions must stay
            _log.exception("Model %s: version %d failed to load", self.name, version)
            code = code_from_tensorflow(getattr(error, "error_code", 2)).value[0]
            self._set(version, VersionState(_ModelVersionStatus.END, code, str(error)))
            return
        with self._lock:
            self._loaded[version] = servable
            self._states[version] = VersionState(_ModelVersionStatus.AVAILABLE)
        _log.info(
            "Model %s: serving version %d after %d warm-up requests",
            self.name,
            version,
            servable.warmup_requests,
        )

    def _retire(self, version: int) -> None:
        # The next poll frees its memory. That blocks calls for 40 ms, which the first calls to the new
        # version should not have to wait for.
        self._retired.append(self._loaded.pop(version))
        self._states[version] = VersionState(_ModelVersionStatus.END)
        _log.info("Model %s: retired version %d", self.name, version)

    def _set(self, version: int, state: VersionState) -> None:
        with self._lock:
            self._states[version] = state
