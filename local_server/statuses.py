"""Errors that end a call: a gRPC status code and a message, and how HTTP reports them.

Where TensorFlow Serving has a message for the error, the message here is the same, word for word.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import grpc

# Source: ToHTTPStatusCode in tensorflow_serving/model_servers/http_server.cc. Other codes become 500.
_HTTP_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_log = logging.getLogger(__name__)


class StatusError(Exception):
    """Ends a call with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The HTTP status that stands for the code."""
        return _HTTP_STATUSES.get(self.code, 500)


def invalid_argument(message: str) -> StatusError:
    """Return the error for a request that can never succeed."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """Return the error for a model or version that does not exist."""
    return StatusError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> StatusError:
    """Return the error for a request that may succeed later."""
    return StatusError(grpc.StatusCode.FAILED_PRECONDITION, message)


def code_from_tensorflow(error_code: int) -> grpc.StatusCode:
    """Return the status code for a tf.errors.OpError's `error_code`; both use the same numbers."""
    return _CODES.get(error_code, grpc.StatusCode.UNKNOWN)


@contextlib.contextmanager
def unexpected_errors_as_internal() -> Iterator[None]:
    """Raise a StatusError with INTERNAL for any other exception, and log its traceback.

    The caller learns the exception's type only: its message may name paths of this machine.
    """
    try:
        yield
    except StatusError:
        raise
    except Exception as error:
        _log.exception("Unexpected error in a call")
        message = f"{type(error).__name__} in the local server. See the server's log."
        raise StatusError(grpc.StatusCode.INTERNAL, message) from error
