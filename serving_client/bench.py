"""How quickly a server answers, seen from here."""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import get_args

import numpy as np
from PIL import Image

from serving_client import codec, preprocessing, wire
from serving_client.client import Client
from serving_client.errors import ServingError
from serving_client.preprocessing import ImageInput
from serving_client.protocol import Call, Via

_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one way of sending. Latencies are those of answered calls, in milliseconds."""

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
) -> list[Figures]:
    """Send the same request again and again, in both ways, from `concurrency` threads.

    Requests are made beforehand: it is the server that is measured, and the way to it.

    Args:
      image: None: noise of the model's size.
      batch: images in a request.
    Raises:
      ServingError: the server is not there, or not even one call succeeds.
    """
    card = client.describe()
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, card.input.shape, dtype=np.uint8)
    row = preprocessing.preprocess(image, card.input)
    inputs = {
        "images": codec.predict_request(
            client.model, "serving_default", {"images": np.stack([row] * batch)}, card.version
        ),
        "encoded": codec.predict_request(
            client.model, "encoded_images", {"encoded": [_file(image)] * batch}, card.version
        ),
    }
    return [
        _measure(client, via, Call(wire.PREDICT, inputs[via]), requests, concurrency, batch)
        for via in get_args(Via)
    ]


def _file(image: ImageInput) -> bytes:
    """Return a file's own bytes, a JPEG of anything else."""
    if isinstance(image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG")
        return buffer.getvalue()
    return preprocessing.encode(image)


def _measure(client: Client, via: Via, call: Call, requests: int, concurrency: int, batch: int) -> Figures:
    for _ in range(_WARM_UP):
        client.send(call)
    latencies: list[float] = []
    failures: list[ServingError] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def send() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            started = time.perf_counter()
            try:
                client.send(call)
            except ServingError as error:
                failures.append(error)
            else:
                latencies.append(time.perf_counter() - started)

    with ThreadPoolExecutor(concurrency) as pool:
        started = time.perf_counter()
        for done in [pool.submit(send) for _ in repeat(None, concurrency)]:
            done.result()
        seconds = time.perf_counter() - started
    if not latencies:
        raise failures[0]
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(latencies, (50, 95, 99)))
    rate = len(latencies) / seconds
    first = str(failures[0]) if failures else ""
    return Figures(via, rate, rate * batch, p50, p95, p99, len(failures), first)


def rows(figures: Sequence[Figures]) -> list[tuple[str, ...]]:
    """Return a table's cells, its heading first."""
    head = ("via", "requests/s", "images/s", "p50 ms", "p95 ms", "p99 ms", "failed")
    return [
        head,
        *(
            (
                one.via,
                *(f"{value:.1f}" for value in (one.requests_per_s, one.images_per_s)),
                *(f"{value:.1f}" for value in (one.p50_ms, one.p95_ms, one.p99_ms)),
                str(one.failed),
            )
            for one in figures
        ),
    ]
