"""What the gateway tells of each request: one line of JSON, Prometheus metrics, OpenTelemetry spans."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
import uuid
from importlib.util import find_spec

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Asked every few seconds by machines.
_PROBES = ("/healthz", "/readyz", "/metrics")
_REQUEST_ID = re.compile(r"[\w.:/=+-]{1,128}", re.ASCII)

_log = logging.getLogger(__name__)


class Metrics:
    """Of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "gateway_request_seconds",
            "Time from the request's head to the answer's end",
            ["method", "path", "status"],
            registry=self.registry,
        )
        self.active = Gauge("gateway_requests_active", "Read or waiting", registry=self.registry)
        self.images = Counter("gateway_images", "Images by outcome", ["outcome"], registry=self.registry)


class Observed:
    """ASGI: gives each request an id, counts it, and logs it when it is answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; its id is the caller's X-Request-ID, if that can be one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started, status = time.perf_counter(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        self._metrics.active.inc()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._metrics.active.dec()
            seconds = time.perf_counter() - started
            # Not the path as it came: each label's every value is kept for ever.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.seconds.labels(scope["method"], route, status).observe(seconds)
            if scope["path"] not in _PROBES or status >= 400:
                _log.info(
                    "request",
                    extra={
                        "request_id": request_id,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "duration_ms": round(seconds * 1e3, 1),
                        "images": scope.get("state", {}).get("images"),
                    },
                )


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def configure_logging() -> None:
    """Write every log record as one JSON object on stderr, those of uvicorn too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def trace(app: FastAPI) -> bool:
    """Make spans of requests and of the gRPC calls within them, if OpenTelemetry is installed.

    To be called before a channel is opened. Where spans go, OTEL_EXPORTER_OTLP_ENDPOINT and
    OpenTelemetry's other variables say.

    Returns:
      Whether it is installed.
    """
    with contextlib.suppress(ModuleNotFoundError):
        if find_spec("opentelemetry.instrumentation.fastapi"):
            from serving_client.gateway import tracing

            tracing.instrument(app, _PROBES)
            return True
    return False
