"""Measure a server's throughput and latency as this client sees them."""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Sequence
from itertools import repeat
from typing import get_args

import numpy as np
from PIL import Image

from serving_client import codec, preprocessing, wire
from serving_client.client import Client
from serving_client.errors import ServingError
from serving_client.preprocessing import ImageInput, InputSpec
from serving_client.protocol import Call, Via
from serving_client.streams.workers import Workers

_WARM_UP_CALLS = 2


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The figures of one request type. Latencies are those of successful calls, in milliseconds."""

    via: Via
    requests_per_s: float
    images_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    first_failure: str


def measure(
    client: Client, image: ImageInput | None, *, requests: int, concurrency: int, batch: int
) -> list[Throughput]:
    """Send the same request again and again from `concurrency` threads, for each request type in turn.

    The requests are encoded beforehand, so that only the server and the network are measured.

    Args:
      image: the image to send; None sends noise of the model's size.
      batch: images per request.
    Raises:
      ServingError: every call of one request type failed.
    """
    card = client.describe()
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, card.input.shape, dtype=np.uint8)
    row = preprocessing.preprocess(image, card.input)
    requests_by_type = {
        "images": codec.encode_predict_request(
            client.model, "serving_default", {"images": np.stack([row] * batch)}, card.version
        ),
        "encoded": codec.encode_predict_request(
            client.model, "encoded_images", {"encoded": [_encode(image, card.input)] * batch}, card.version
        ),
    }
    return [
        _measure(client, via, Call(wire.PREDICT, requests_by_type[via]), requests, concurrency, batch)
        for via in get_args(Via)
    ]


def _encode(image: ImageInput, spec: InputSpec) -> bytes:
    """Return a file's own bytes, or a JPEG of an array."""
    if isinstance(image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG")
        return buffer.getvalue()
    return preprocessing.encode(image, spec)


def _measure(client: Client, via: Via, call: Call, requests: int, concurrency: int, batch: int) -> Throughput:
    for _ in range(_WARM_UP_CALLS):
        client.send(call)
    latencies_s: list[float] = []
    failures: list[ServingError] = []
    remaining = iter(range(requests))
    lock = threading.Lock()

    def send_remaining() -> None:
        while True:
            with lock:
                if next(remaining, None) is None:
                    return
            started = time.perf_counter()
            try:
                client.send(call)
            except ServingError as error:
                failures.append(error)
            else:
                latencies_s.append(time.perf_counter() - started)

    workers = Workers(concurrency, "bench")
    try:
        started = time.perf_counter()
        for done in [workers.submit(send_remaining) for _ in repeat(None, concurrency)]:
            done.result()
        seconds = time.perf_counter() - started
    finally:
        workers.stop()
    if not latencies_s:
        raise failures[0]
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(latencies_s, (50, 95, 99)))
    rate = len(latencies_s) / seconds
    first_failure = str(failures[0]) if failures else ""
    return Throughput(via, rate, rate * batch, p50, p95, p99, len(failures), first_failure)


def table_rows(measured: Sequence[Throughput]) -> list[tuple[str, ...]]:
    """Return the cells of a table, header first."""
    header = ("via", "requests/s", "images/s", "p50 ms", "p95 ms", "p99 ms", "failed")
    return [
        header,
        *(
            (
                one.via,
                *(f"{value:.1f}" for value in (one.requests_per_s, one.images_per_s)),
                *(f"{value:.1f}" for value in (one.p50_ms, one.p95_ms, one.p99_ms)),
                str(one.failed),
            )
            for one in measured
        ),
    ]
