"""What a gRPC status means: the client's exception for it, and whether to try again."""

from __future__ import annotations

import enum
import re

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
        "The server is overloaded. Send less at once.",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        errors.DeadlineExceeded,
        "Check that the server is reachable, raise the timeout, or send fewer images at once.",
    ),
}
_NO_ANSWER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
# gRPC's and TensorFlow Serving's wording where the code alone does not tell.
_TOO_LARGE = "larger than max"
_UNKNOWN_LABEL = "Unrecognized servable version label"
_QUEUE_FULL = "batch scheduling queue"


class Retry(enum.Enum):
    """Where else a failed call may succeed."""

    NOWHERE = enum.auto()
    OTHER_SERVERS = enum.auto()
    """Servers may differ: this one does not have the model, the version or the label."""
    ANY_SERVER = enum.auto()
    """The server stops, starts, or has too much to do."""


def retry(code: grpc.StatusCode, details: str) -> Retry:
    """Decide whether to try a failed call again."""
    if code is grpc.StatusCode.NOT_FOUND or _is_unknown_label(code, details):
        return Retry.OTHER_SERVERS
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return Retry.ANY_SERVER
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE not in details:
        return Retry.ANY_SERVER
    return Retry.NOWHERE


def is_answer(code: grpc.StatusCode, details: str) -> bool:
    """Tell whether a status shows that the server works, be it that it refuses the call."""
    return code not in _NO_ANSWER or _QUEUE_FULL in details


def error_for_status(code: grpc.StatusCode, details: str, server: str, model: str) -> errors.ServingError:
    """Return the exception for a failed call. Only this function maps statuses to exceptions."""
    kind, advice = _ERRORS_BY_STATUS.get(code, (errors.ServerError, "See the server's log."))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        kind, advice = errors.InvalidRequest, _advice_for_size(details)
    elif _is_unknown_label(code, details):
        kind, advice = errors.ModelNotFound, "Check the label in the server's configuration."
    reason = " ".join(details.split()).rstrip(".") or "no details"
    message = f"{server}, model {model!r}: {code.name}: {reason}. {advice}"
    return kind(message, code=code, details=details)


def _is_unknown_label(code: grpc.StatusCode, details: str) -> bool:
    return code is grpc.StatusCode.INVALID_ARGUMENT and _UNKNOWN_LABEL in details


def _advice_for_size(details: str) -> str:
    sizes = re.search(r"\((\d+) vs\. (\d+)\)", details)
    found = f" The message has {int(sizes[1]):,} bytes, the limit is {int(sizes[2]):,}." if sizes else ""
    return f"Send fewer or smaller images at once.{found}"
