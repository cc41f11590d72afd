"""Prometheus metrics of Predict calls: counts and latencies, under TensorFlow Serving's metric names."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_COUNT = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"
# Source: tensorflow_serving/servables/tensorflow/util.cc.
_BUCKETS_US = [10 * 1.8**power for power in range(33)]


class Metrics:
    """The metrics of one server. Thread-safe."""

    def __init__(self, is_configured: Callable[[str], bool]) -> None:
        """Start with empty metrics.

        Args:
          is_configured: tells whether a model name is configured. Calls for other names are counted under
            "", because callers could otherwise create any number of time series.
        """
        self._is_configured = is_configured
        disable_created_metrics()  # type: ignore[no-untyped-call]  # TensorFlow Serving has no _created metrics
        self._registry = CollectorRegistry()
        self._counts = _RequestCounts()
        self._registry.register(self._counts)
        self._latency_us = Histogram(
            _LATENCY,
            "Distribution of wall time in microseconds.",
            ["model_name", "API", "entrypoint"],
            registry=self._registry,
            buckets=_BUCKETS_US,
        )

    def record(self, model: str, entrypoint: str, status: str, seconds: float) -> None:
        """Record one Predict call.

        Args:
          model: the name in the request.
          entrypoint: "GRPC" or "REST".
          status: the name of a gRPC status code.
          seconds: the duration of the call.
        """
        model = model if self._is_configured(model) else ""
        self._counts.add(model, status)
        self._latency_us.labels(model, "predict", entrypoint).observe(seconds * 1e6)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _RequestCounts(Collector):
    """A counter without the "_total" suffix that prometheus_client adds to every counter's name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, model: str, status: str) -> None:
        with self._lock:
            self._counts[model, status] += 1

    def collect(self) -> Iterator[Metric]:
        metric = Metric(_COUNT, "The total number of requests.", "unknown")
        with self._lock:
            for (model, status), count in self._counts.items():
                metric.add_sample(_COUNT, {"model_name": model, "status": status}, count)
        yield metric
