"""One family of errors; each message says what failed, what came, and what to do."""

from __future__ import annotations


class ServingError(Exception):
    """Whatever keeps the client from an answer."""


class ImageError(ServingError):
    """An image cannot be read or decoded; the message names which."""


class InvalidRequest(ServingError):
    """The request does not fit the model: wrong shape, dtype, input or signature."""


class ModelNotFound(ServingError):
    """The server has no such model, or no version of it that is ready."""


class ServerUnavailable(ServingError):
    """No server answers at that address, or it is overloaded."""


class DeadlineExceeded(ServingError):
    """The answer did not come in time."""


class ServerError(ServingError):
    """The server failed, or answered what is not TensorFlow Serving's API or our export contract."""
