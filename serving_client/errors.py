"""The client's exceptions, all derived from `ServingError`.

`statuses.error_for_status` turns a gRPC status into one of them. Every message says what failed, what was
received and what to do.
"""

from __future__ import annotations

import grpc


class ServingError(Exception):
    """The client could not get an answer. Base class of all errors below.

    Attributes:
      code: the gRPC status that the server or the channel gave; None if the client raised it by itself.
      details: that status's message, as it came.
    """

    def __init__(self, message: str, *, code: grpc.StatusCode | None = None, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class ImageError(ServingError):
    """An image cannot be read or decoded. The message names the image.

    The client raises it when it decodes the image, or when the model reports that it could not. No gRPC code
    stands for it. Replace the file, or save it as PNG.
    """


class InvalidRequest(ServingError):
    """The request does not fit the model, or an argument is out of range.

    Raised by the client's own checks, for INVALID_ARGUMENT and FAILED_PRECONDITION, and for a message that is
    larger than a limit. Compare the input with what `describe()` says; repeating the call will not help.
    """


class ModelNotFound(ServingError):
    """No server has the model, the version or the label, or no version of the model is ready (NOT_FOUND).

    Check the model's name with the server's configuration, and its versions with `status()`.
    """


class ServerUnavailable(ServingError):
    """No server answers at the address, or it is overloaded (UNAVAILABLE, RESOURCE_EXHAUSTED).

    The client has already retried the call. Check the address and the server, or send less at once.
    """


class DeadlineExceeded(ServingError):
    """The answer did not arrive within `timeout_s` (DEADLINE_EXCEEDED).

    Check that the server is reachable, raise the timeout, or send fewer images at once.
    """


class ServerError(ServingError):
    """The server failed with any other gRPC code, or its answer breaks the API or the export contract.

    The server's log has the cause. An answer that cannot be read usually comes from a server that is not
    TensorFlow Serving, or from a model that `python -m trainer` did not publish.
    """
