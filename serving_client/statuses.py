"""Turn gRPC statuses into the client's exceptions."""

from __future__ import annotations

import grpc

from serving_client import errors

_ERRORS_BY_STATUS: dict[grpc.StatusCode, tuple[type[errors.ServingError], str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (errors.InvalidRequest, "Compare the input with describe()."),
    grpc.StatusCode.FAILED_PRECONDITION: (
        errors.InvalidRequest,
        "Check that `python -m trainer` published this model.",
    ),
    grpc.StatusCode.NOT_FOUND: (
        errors.ModelNotFound,
        "Check the model's name, and that a version is ready.",
    ),
    grpc.StatusCode.UNAVAILABLE: (
        errors.ServerUnavailable,
        "Check the address, and that the server is running.",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        errors.ServerUnavailable,
        "The server is overloaded, or the message is too large. Send less at once.",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        errors.DeadlineExceeded,
        "Check that the server is reachable, raise the timeout, or send fewer images at once.",
    ),
}


def error_for_status(code: grpc.StatusCode, details: str, server: str, model: str) -> errors.ServingError:
    """Return the exception for a failed call. Only this function maps statuses to exceptions."""
    kind, advice = _ERRORS_BY_STATUS.get(code, (errors.ServerError, "See the server's log."))
    reason = " ".join(details.split()).rstrip(".") or "no details"
    return kind(f"{server}, model {model!r}: {code.name}: {reason}. {advice}", code=code, details=details)
