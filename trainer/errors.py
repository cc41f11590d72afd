"""One family of errors: whatever the trainer refuses, it refuses with one of these and one line."""

from __future__ import annotations


class TrainerError(Exception):
    """What failed, what was expected, what came, and what to do, in one line."""


class ConfigError(TrainerError):
    """A flag, a TOML key or a combination of them cannot be used."""


class DataError(TrainerError):
    """The image folders or a picture in them cannot be used."""


class WeightsError(TrainerError):
    """The backbone's weights are not to be had or do not fit."""


class DeviceError(TrainerError):
    """The devices that were asked for are not there."""


class PublishError(TrainerError):
    """The model directory cannot take a version."""
