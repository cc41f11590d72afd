"""Telemetry of each request: one JSON log line, Prometheus metrics and OpenTelemetry spans."""

from __future__ import annotations

import contextlib
import logging
import os
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

# Kubernetes and Prometheus ask for these every few seconds. They are not logged unless they fail.
_PROBES = ("/healthz", "/readyz", "/metrics")
_REQUEST_ID = re.compile(r"[\w.:/=+-]{1,128}", re.ASCII)

_log = logging.getLogger(__name__)


class Metrics:
    """The Prometheus metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "gateway_request_seconds",
            "Seconds from the request's header to the end of the answer",
            ["method", "path", "status"],
            registry=self.registry,
        )
        self.active = Gauge(
            "gateway_requests_active", "Requests that are waiting or being answered", registry=self.registry
        )
        self.images = Counter("gateway_images", "Images by outcome", ["outcome"], registry=self.registry)


class RequestTelemetry:
    """ASGI middleware: gives each request an id, measures it, and logs it once it is answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Its id is the caller's X-Request-ID, or a new one if that is not valid."""
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
            # The route, not the requested path: Prometheus keeps every label value for ever.
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
    """Log to stderr, one JSON object per record, including uvicorn's records."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn adds it for terminals
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def instrument(app: FastAPI) -> bool:
    """Trace requests and their gRPC calls, if the extra `tracing` is installed.

    Call it before a channel is opened. OTEL_EXPORTER_OTLP_ENDPOINT says where spans are sent; without it,
    none are sent.

    Returns:
      Whether the extra is installed.
    """
    with contextlib.suppress(ModuleNotFoundError):
        if find_spec("opentelemetry.instrumentation.fastapi"):
            _send_spans()
            _instrument(app)
            return True
    return False


def _send_spans() -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if any(os.environ.get(name) for name in endpoints):
        provider = TracerProvider(resource=Resource.create({"service.name": "image-classifier-gateway"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


def _instrument(app: FastAPI) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient

    FastAPIInstrumentor.instrument_app(app, excluded_urls=",".join(_PROBES))
    client = GrpcAioInstrumentorClient()  # type: ignore[no-untyped-call]  # it has no types
    if not client.is_instrumented_by_opentelemetry:
        client.instrument()
