"""One family of errors: whatever the trainer refuses, it refuses with one of these and one line.

The exit codes are what a Job's podFailurePolicy reads (k8s/training.yaml, docs/operations.md): the same
run would fail again with 2 to 5; the others are worth another try.
"""

from __future__ import annotations

from collections.abc import Iterable


class TrainerError(Exception):
    """What failed, what was expected, what came, and what to do, in one line.

    Attributes:
      exit_code: of the process; 1 is also what Python exits with after a traceback.
    """

    exit_code = 1


class ConfigError(TrainerError):
    """A flag, a TOML key or a combination of them cannot be used."""

    exit_code = 2


class DataError(TrainerError):
    """The image folders or a picture in them cannot be used."""

    exit_code = 3


class DivergedError(TrainerError):
    """The loss is not a number any more."""

    exit_code = 4


class NotGoodEnoughError(TrainerError):
    """The trained model does not pass the gate, and is not published."""

    exit_code = 5


class WeightsError(TrainerError):
    """The backbone's weights are not to be had or do not fit."""

    exit_code = 6


class DeviceError(TrainerError):
    """The devices that were asked for are not there."""

    exit_code = 7


class StorageError(TrainerError):
    """A volume is full, read-only or gone: what was complete on it stays."""

    exit_code = 8


class WorkerLostError(TrainerError):
    """Another worker of a multi-worker run is gone, or disagrees about where the run stands."""

    exit_code = 9


class ExportMismatchError(TrainerError):
    """What was written does not answer as the network that was trained, and is not published."""

    exit_code = 10


class ClusterError(TrainerError):
    """The Kubernetes cluster does not answer, or refuses."""

    exit_code = 11


class StoppedError(TrainerError):
    """SIGTERM came; the run's state is saved, and the next start goes on from there."""

    exit_code = 143  # 128 + SIGTERM, as if the signal had not been handled


def join_names(names: Iterable[str], most: int = 10) -> str:
    """Join up to `most` names with commas for a message, and say how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
