"""One family of errors: whatever the trainer refuses, it refuses with one of these and one line."""

from __future__ import annotations


class TrainerError(Exception):
    """What failed, what was expected, what came, and what to do, in one line.

    Attributes:
      exit_code: 2 and 3 say that the same run would fail again (k8s/training.yaml gives up on them);
        1, which Python also exits with after a traceback, may be worth another try.
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

    exit_code = 3


class WeightsError(TrainerError):
    """The backbone's weights are not to be had or do not fit."""


class DeviceError(TrainerError):
    """The devices that were asked for are not there."""


class PublishError(TrainerError):
    """The model directory cannot take a version, or what a run leaves beside it."""
