"""The errors that the trainer raises, each with the exit code that the command line ends with.

A Job's podFailurePolicy reads the codes (k8s/training.yaml): after 2 to 5 the same run would fail
again, so it is not retried. docs/operations.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterable


class TrainerError(Exception):
    """One line: what failed, what was expected, what was received, and what to do.

    Attributes:
      exit_code: of the process; Python also exits with 1 after a traceback.
    """

    exit_code = 1


class ConfigError(TrainerError):
    """A flag, a TOML key or a combination of them cannot be used."""

    exit_code = 2


class DataError(TrainerError):
    """The image folders, or an image in them, cannot be used."""

    exit_code = 3


class DivergedError(TrainerError):
    """The loss is not finite: the training diverged."""

    exit_code = 4


class NotGoodEnoughError(TrainerError):
    """The trained model does not pass the gate, and is not published."""

    exit_code = 5


class WeightsError(TrainerError):
    """The backbone's weights are not available, or belong to another network."""

    exit_code = 6


class DeviceError(TrainerError):
    """The requested devices are not available."""

    exit_code = 7


class StorageError(TrainerError):
    """A volume is full, read-only or gone; complete files on it stay."""

    exit_code = 8


class WorkerLostError(TrainerError):
    """Another worker of a multi-worker run is lost, or is at another step."""

    exit_code = 9


class ExportMismatchError(TrainerError):
    """The exported version does not give the trained network's answers, and is not published."""

    exit_code = 10


class ClusterError(TrainerError):
    """The Kubernetes cluster does not answer, or refuses a request."""

    exit_code = 11


class StoppedError(TrainerError):
    """SIGTERM stopped the run; its state is saved, and the next start resumes it."""

    exit_code = 143  # 128 + SIGTERM, as if the signal had not been handled


def join_names(names: Iterable[str], most: int = 10) -> str:
    """Join up to `most` names with commas for a message, and say how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
