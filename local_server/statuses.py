"""An answer that is not OK: a gRPC status code and TensorFlow Serving's own message."""

from __future__ import annotations

import grpc


class StatusError(Exception):
    """Ends a call with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_tensorflow(number: int) -> grpc.StatusCode:
    """Return the status code of a tf.errors.OpError's `error_code`; the numbers are the same."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def invalid_argument(message: str) -> StatusError:
    """Return the error for a request that cannot be right."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """Return the error for a model or version that is not there."""
    return StatusError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> StatusError:
    """Return the error for a request that may be right at another time."""
    return StatusError(grpc.StatusCode.FAILED_PRECONDITION, message)
