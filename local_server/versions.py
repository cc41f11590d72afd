"""The loaded versions of one model: watches the base path, loads new versions, then retires old ones."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

from local_server.base_path import BasePath
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


@dataclasses.dataclass(frozen=True)
class LoadRetries:
    """How a version that failed to load is tried again. The defaults are TensorFlow Serving's.

    Attributes:
      limit: the most tries after the first; 0 tries once.
      interval_s: seconds from a failure to the next try; 0 or less does not wait.

    Source: tensorflow_serving/model_servers/server.h, tensorflow_serving/util/retrier.cc.
    """

    limit: int = 5
    interval_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class _Failure:
    tries: int
    retry_at: float  # in time.monotonic() seconds; infinity after the last try
    state: VersionState


class ModelVersions:
    """The versions of one model.

    The rules are TensorFlow Serving's. The policy selects which versions on disk to serve. Old versions are
    retired only once a new one is ready. A version that failed to load, for example because it is still
    being copied, is tried again as LoadRetries says and counts as loading meanwhile. After the last try it
    is tried again only after it was removed from disk. Calls that are running on a retired version finish on
    it, because each call holds a reference to its servable.

    No method waits for the next try, so a version that fails holds up no other version.
    """

    def __init__(
        self,
        name: str,
        base_path: Path,
        policy: Policy | None = None,
        load: Load = Servable,
        retries: LoadRetries | None = None,
    ) -> None:
        """Start without versions; the first poll loads them.

        Args:
          name: of the model.
          base_path: directory with the versions.
          policy: latest { num_versions: N }, all { } or specific { versions: … }; None serves the latest.
          load: loads one version.
          retries: for versions that fail to load; None has TensorFlow Serving's defaults.
        """
        self.name = name
        self.base_path = base_path
        self.policy = policy or Policy()
        self._disk = BasePath(base_path)
        self._load_servable = load
        self._retries = retries or LoadRetries()
        self._lock = threading.Lock()
        self._loaded: dict[int, Servable] = {}
        self._states: dict[int, VersionState] = {}
        self._retired: list[Servable] = []
        self._wanted: dict[int, Path] = {}
        self._failures: dict[int, _Failure] = {}
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
        """Look for versions on disk, then do as `load_due`; both are called from one thread."""
        try:
            on_disk = self._disk.versions()
        except OSError as error:  # keep serving: a shared disk may be unreachable for a moment
            self._warn_once(f"cannot read {self.base_path}: {error.strerror}.")
        else:
            self._wanted = {version: on_disk[version] for version in self._selected(on_disk)}
            self._forget_failures()
            if self._wanted:
                self._last_warning = ""
            else:
                self._warn_once(
                    f"found no version to serve in {self.base_path}. A version is a directory whose name is "
                    "a number."
                )
        self.load_due()

    def load_due(self) -> None:
        """Load the versions that are new or due for another try, then retire old ones."""
        self._retired.clear()
        now = time.monotonic()
        for version in self._wanted:
            failure = self._failures.get(version)
            if not self.is_loaded(version) and (failure is None or failure.retry_at <= now):
                self._load(version)
        self._retire_unless_wanted()

    def retry_at(self) -> float:
        """Return when a version is due for another try, in time.monotonic() seconds; infinity if none is."""
        return min((failure.retry_at for failure in self._failures.values()), default=math.inf)

    def retire_all(self) -> None:
        """Stop serving this model."""
        with self._lock:
            for version in list(self._loaded):
                self._retire(version)

    def _selected(self, on_disk: Collection[int]) -> list[int]:
        """Return the versions that the policy selects, newest first."""
        newest_first = sorted(on_disk, reverse=True)
        choice = self.policy.WhichOneof("policy_choice")
        if choice == "all":
            return newest_first
        if choice == "specific":
            return [version for version in newest_first if version in self.policy.specific.versions]
        return newest_first[: self.policy.latest.num_versions or 1]

    def _forget_failures(self) -> None:
        """End the tries of versions that are no longer wanted; they may come back fixed."""
        for version in self._failures.keys() - self._wanted.keys():
            self._set(version, self._failures.pop(version).state)

    def _warn_once(self, problem: str) -> None:
        """Log why there is nothing to load, unless the last poll logged the same."""
        if problem != self._last_warning:
            _log.warning("Model %s: waiting for a version: %s", self.name, problem)
            self._last_warning = problem

    def _load(self, version: int) -> None:
        self._set(version, VersionState(_ModelVersionStatus.LOADING))
        _log.info("Model %s: loading version %d", self.name, version)
        try:
            servable = self._load_servable(self.name, version, self._wanted[version])
        except Exception as error:  # a damaged SavedModel raises many types, and older versions must stay
            self._record_failure(version, error)
            return
        self._failures.pop(version, None)
        with self._lock:
            self._loaded[version] = servable
            self._states[version] = VersionState(_ModelVersionStatus.AVAILABLE)
        _log.info(
            "Model %s: serving version %d after %d warm-up requests",
            self.name,
            version,
            servable.warmup_requests,
        )

    def _record_failure(self, version: int, error: Exception) -> None:
        previous = self._failures.get(version)
        tries = previous.tries + 1 if previous else 1
        is_last = tries > self._retries.limit
        code = code_from_tensorflow(getattr(error, "error_code", 2)).value[0]
        state = VersionState(_ModelVersionStatus.END, code, str(error))
        retry_at = math.inf if is_last else time.monotonic() + self._retries.interval_s
        self._failures[version] = _Failure(tries, retry_at, state)
        if is_last:
            self._set(version, state)
            next_step = "It is tried again only after it was removed from disk"
        else:
            next_step = f"Next try in {max(0.0, self._retries.interval_s):g} s"
        _log.error(
            f"Model {self.name}: version {version} failed to load, try {tries} of {self._retries.limit + 1}. "
            f"{next_step}. {type(error).__name__}: {' '.join(str(error).split())}"
        )

    def _retire_unless_wanted(self) -> None:
        with self._lock:
            if not self._wanted or self._wanted.keys() & self._loaded.keys():
                for version in self._loaded.keys() - self._wanted.keys():
                    self._retire(version)

    def _retire(self, version: int) -> None:
        # The next poll frees its memory. That blocks calls for 40 ms, which the first calls to the new
        # version should not have to wait for.
        self._retired.append(self._loaded.pop(version))
        self._states[version] = VersionState(_ModelVersionStatus.END)
        _log.info("Model %s: retired version %d", self.name, version)

    def _set(self, version: int, state: VersionState) -> None:
        with self._lock:
            self._states[version] = state
