"""Check what callers pass, so that a wrong argument is refused in words before any call."""

from __future__ import annotations

import io
import numbers
import re
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, TypeGuard, get_args

import grpc
import numpy as np

from serving_client.connection import Metadata, Tls
from serving_client.errors import InvalidRequest
from serving_client.protocol import Via

# 30 years. gRPC counts nanoseconds since 1970 in 64 bits, so a deadline after the year 2262 overflows.
_MAX_TIMEOUT_S = 1e9

_MAX_SHOWN = 100

_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_TEXT = re.compile(r"[\x20-\x7e]*")


def check_timeout(timeout_s: object) -> float:
    """Return the time budget in seconds; raise InvalidRequest unless it is finite and positive."""
    if _is_real(timeout_s) and 0 < timeout_s <= _MAX_TIMEOUT_S:
        return float(timeout_s)
    raise InvalidRequest(
        f"timeout_s must be a number of seconds above 0 and at most {_MAX_TIMEOUT_S:.0e}. "
        f"Received: {_shown(timeout_s)}."
    )


def check_server(server: object) -> str:
    """Return the address; raise InvalidRequest unless it is text. The transport checks its syntax."""
    return _check_text("server", server, "HOST:PORT of TensorFlow Serving's gRPC API")


def check_model(model: object) -> str:
    """Return the model's name; raise InvalidRequest unless it is text."""
    return _check_text("model", model, "the name of a model on the server")


def check_version(version: object, label: object) -> int | str | None:
    """Return the one that is given; raise InvalidRequest if both are, or if it is out of range."""
    if version is not None and label is not None:
        raise InvalidRequest(
            f"Give version or label, not both. Received: {_shown(version)} and {_shown(label)}."
        )
    if label is not None:
        return _check_text("label", label, "a version label on the server, such as 'stable'")
    if version is None:
        return None
    if _is_whole(version) and 0 <= version < 2**63:
        return int(version)
    raise InvalidRequest(f"version must be a whole number from 0 to 2**63 - 1. Received: {_shown(version)}.")


def check_count(name: str, count: object) -> int:
    """Return the argument of this name; raise InvalidRequest unless it is a whole number of at least 1."""
    if _is_whole(count) and count >= 1:
        return int(count)
    raise InvalidRequest(f"{name} must be a whole number of at least 1. Received: {_shown(count)}.")


def check_connection(
    wait_for_ready: object,
    tls: object,
    metadata: object,
    compression: object,
    interceptors: object,
    *,
    is_async: bool,
) -> dict[str, Any]:
    """Return them by name, for a transport; raise InvalidRequest unless it takes them."""
    if not isinstance(wait_for_ready, bool):
        raise InvalidRequest(f"wait_for_ready must be True or False. Received: {_shown(wait_for_ready)}.")
    if tls is not None and not isinstance(tls, Tls):
        raise InvalidRequest(f"tls must be None or Tls(...) with PEM files. Received: {_shown(tls)}.")
    if compression is not None and not isinstance(compression, grpc.Compression):
        names = ", ".join(f"grpc.Compression.{one.name}" for one in grpc.Compression)
        raise InvalidRequest(f"compression must be None or one of {names}. Received: {_shown(compression)}.")
    return {
        "wait_for_ready": wait_for_ready,
        "tls": tls,
        "metadata": check_metadata(metadata),
        "compression": compression,
        "interceptors": _check_interceptors(interceptors, is_async),
    }


def check_stream(images: object, top_k: object, via: object, *, may_be_async: bool) -> int:
    """Return top_k; raise InvalidRequest unless `classify` and `stream` take these arguments."""
    if not isinstance(via, str) or via not in get_args(Via):
        raise InvalidRequest(f"via must be 'images' or 'encoded'. Received: {_shown(via)}.")
    _check_images(images, may_be_async)
    return check_count("top_k", top_k)


def _check_images(images: object, may_be_async: bool) -> None:
    """Raise InvalidRequest unless it is an iterable of images. A single image is a likely mistake."""
    if isinstance(images, AsyncIterable):
        if may_be_async:
            return
        advice = "Use AsyncClient for it"
    elif not isinstance(images, Iterable):
        advice = "Put one image into a list"
    elif isinstance(images, (str, bytes, bytearray, memoryview)) or _is_one_array(images):
        advice = "Put it into a list"
    elif isinstance(images, io.IOBase):
        advice = "Pass its content: [file.read()]"
    else:
        return
    raise InvalidRequest(f"images must be a list of images. Received: {_kind(images)}. {advice}.")


def check_metadata(metadata: object) -> Metadata:
    """Return the pairs; raise InvalidRequest unless gRPC can send them."""
    if isinstance(metadata, (str, bytes, Mapping)) or not isinstance(metadata, Iterable):
        raise InvalidRequest(
            "metadata must be pairs such as [('authorization', 'Bearer TOKEN')]. Received: "
            f"{_kind(metadata)}. Of a dict, pass its items()."
        )
    return tuple(_check_pair(pair) for pair in metadata)


def _check_pair(pair: object) -> tuple[str, str | bytes]:
    # Values may be secrets, so the messages leave them out.
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InvalidRequest(f"metadata must be pairs of key and value. Received: {_kind(pair)} among them.")
    key, value = pair
    if not isinstance(key, str) or not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-"):
        raise InvalidRequest(
            "A metadata key must be lower-case letters, digits, '-', '_' and '.', and must not begin with "
            f"'grpc-'. Received: {_shown(key)}."
        )
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise InvalidRequest(
                f"The metadata {_shown(key)} must have bytes as value. Received: {_kind(value)}."
            )
        return key, value
    if not isinstance(value, str) or not _METADATA_TEXT.fullmatch(value):
        received = f"{_kind(value)} with other characters" if isinstance(value, str) else _kind(value)
        raise InvalidRequest(
            f"The metadata {_shown(key)} must have printable ASCII text as value. Received: {received}. "
            f"Send bytes under the key '{key}-bin'."
        )
    return key, value


def _check_interceptors(interceptors: object, is_async: bool) -> tuple[Any, ...]:
    if isinstance(interceptors, Iterable):
        interceptors = tuple(interceptors)
        if all(_intercepts(one, is_async) for one in interceptors):
            return interceptors
    kind = "grpc.aio.UnaryUnaryClientInterceptor" if is_async else "grpc.UnaryUnaryClientInterceptor"
    raise InvalidRequest(f"interceptors must be a list of {kind}. Received: {_shown(interceptors)}.")


def _intercepts(interceptor: object, is_async: bool) -> bool:
    if is_async:
        return isinstance(interceptor, grpc.aio.UnaryUnaryClientInterceptor)
    # Those of OpenTelemetry have the method, but not gRPC's base class.
    return hasattr(interceptor, "intercept_unary_unary") and not isinstance(
        interceptor, grpc.aio.ClientInterceptor
    )


def _shown(value: object) -> str:
    """Return the value as Python writes it, shortened to what fits into a message."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a number of thousands of digits
        return _kind(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _check_text(name: str, value: object, expected: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be {expected}. Received: {_shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} must be text that UTF-8 can encode. Received: {_shown(value)}."
        ) from error
    return value


def _is_real(value: object) -> TypeGuard[float]:
    """Say whether it is a number. Python counts True as 1; nobody means that."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_one_array(images: object) -> bool:
    return isinstance(images, np.ndarray) and images.ndim in (0, 2, 3)


def _kind(value: object) -> str:
    return f"one {type(value).__name__}"
