"""OpenTelemetry (extra `tracing`); imported only where its packages are."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def instrument(app: FastAPI, excluded_paths: Sequence[str]) -> None:
    """Make a span of each request, and of each gRPC call; send them if an endpoint is named."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if any(os.environ.get(name) for name in endpoints):
        provider = TracerProvider(resource=Resource.create({"service.name": "image-classifier-gateway"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app, excluded_urls=",".join(excluded_paths))
    client = GrpcAioInstrumentorClient()  # type: ignore[no-untyped-call]  # it has no types
    if not client.is_instrumented_by_opentelemetry:
        client.instrument()
