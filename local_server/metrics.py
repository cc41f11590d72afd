"""Counts and times of requests, for Prometheus, under TensorFlow Serving's own names."""

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
    """The figures of one server; thread-safe."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        """Set up.

        Args:
          knows: whether a model of a name is served; calls for others are counted under "", because
            anybody can make up names.
        """
        self._knows = knows
        disable_created_metrics()  # type: ignore[no-untyped-call]  # TensorFlow Serving has none
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
        """Count one Predict.

        Args:
          entrypoint: "GRPC" or "REST".
          status: a gRPC status code's name.
        """
        model = model if self._knows(model) else ""
        self._counts.add(model, status)
        self._latency_us.labels(model, "predict", entrypoint).observe(seconds * 1e6)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self._registry)


class _RequestCounts(Collector):
    """A counter without the "_total" that prometheus_client adds to every counter's name."""

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
