"""How fast a version is served, compared with the same SavedModel called in one process.

    python -m benchmarks.serving --weights FILE.weights.h5 --json OUT

The trainer publishes an Xception at 150 px, with random weights if --weights is left out. `local_server`
serves it with batching. So does `tensorflow_model_server`, if TENSORFLOW_MODEL_SERVER names that program.
1, 8 and 64 concurrent callers send one image per request: float32 (`images`) and JPEG bytes (`encoded`).
The floor is the same SavedModel called in one process, the mean of a measurement before and one after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import figures
from serving_client import card, codec, preprocessing, wire
from serving_client.preprocessing import InputSpec

LIMITS: figures.Limits = {"first_over_median": ("<=", 1.5), "batched_over_floor": (">=", 0.85)}
READY_S = 180
SIGNATURES = {"images": "serving_default", "encoded": "encoded_images"}

Call = Callable[[bytes], wire.PredictResponse]
Rates = dict[str, dict[str, float]]
"""Images/s by way of sending, then by batch size as text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What is served, and what load it gets.

    Attributes:
      callers: concurrent callers, and how many requests they send together.
      batch_sizes: those that the server may form; the most callers fill the last.
      floor_images: how many images the floor runs at each batch size.
      next_requests: with how many requests the first one to a new version is compared.
    """

    backbone: str = "xception"
    image_size_px: int = 150
    callers: Mapping[int, int] = dataclasses.field(default_factory=lambda: {1: 60, 8: 240, 64: 960})
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    floor_images: int = 128
    next_requests: int = 100


QUICK = Workload(
    backbone="vgg16",
    image_size_px=32,
    callers={1: 2, 4: 8},
    batch_sizes=(1, 2),
    floor_images=4,
    next_requests=4,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    arguments = figures.parse_arguments(__doc__, argv, optional=("weights",))
    workload = QUICK if arguments.quick else Workload()
    with tempfile.TemporaryDirectory() as directory:
        measured = measure(Path(directory), workload, str(arguments.weights or "none"))
    show(measured)
    return figures.finish(measured, LIMITS, arguments)


def measure(work: Path, workload: Workload, weights: str) -> dict[str, Any]:
    """Return all figures; `batched_over_floor` is the most callers' rate over the largest batch's floor."""
    version, image = publish(work, workload, weights)
    requests = requests_for(image, input_of(version))
    before = floor(version, image, workload)
    programs = {"local_server": [sys.executable, "-m", "local_server"]}
    if path := os.environ.get("TENSORFLOW_MODEL_SERVER"):
        programs["tensorflow_model_server"] = [path]
    servers = {
        name: measure_server(work / name, command, version, requests, workload)
        for name, command in programs.items()
    }
    # The machine is not equally fast all the time.
    after = floor(version, image, workload)
    mean = {
        via: {size: statistics.mean([rate, after[via][size]]) for size, rate in rates.items()}
        for via, rates in before.items()
    }
    ours = servers["local_server"]
    return {
        "first_over_median": max(ours["first_over_median"].values()),
        "batched_over_floor": min(
            row["requests_per_s"] / mean[row["via"]][str(workload.batch_sizes[-1])]
            for row in ours["load"]
            if row["callers"] == max(workload.callers)
        ),
        "floor": mean,
        "servers": servers,
    }


def publish(work: Path, workload: Workload, weights: str) -> tuple[Path, Path]:
    """Have the trainer publish a version; return its directory and a validation image."""
    data, models = work / "data", work / "published"
    figures.run_trainer("sample", data, "--train-per-class", 4)
    figures.run_trainer(
        *("train", "--data", data, "--model-dir", models, "--name", "m", "--epochs", 1),
        *("--backbone", workload.backbone, "--weights", weights, "--image-size", workload.image_size_px),
        *("--warmup-batch-size", workload.batch_sizes[-1]),
    )
    return models / "m" / "1", min(data.glob("validation/*/*"))


def input_of(version: Path) -> InputSpec:
    """Return the input that a published version takes."""
    return card.parse((version / "assets.extra" / "model_card.json").read_bytes()).input


def requests_for(image: Path, spec: InputSpec) -> dict[str, bytes]:
    """Return one request for each way of sending."""
    row = preprocessing.preprocess(image, spec)[np.newaxis]
    return {
        "images": codec.predict_request("m", SIGNATURES["images"], {"images": row}),
        "encoded": codec.predict_request("m", SIGNATURES["encoded"], {"encoded": [image.read_bytes()]}),
    }


def floor(version: Path, image: Path, workload: Workload) -> Rates:
    """Return what the SavedModel reaches in a process of its own."""
    sizes = map(str, workload.batch_sizes)
    rates: Rates = figures.call_in_new_process(
        "serving", "call_in_process", str(version), str(image), str(workload.floor_images), *sizes
    )
    return rates


def call_in_process(version: str, image: str, image_count: str, *sizes: str) -> Rates:
    """Call the signatures of a SavedModel, a batch at a time."""
    import tensorflow as tf

    loaded = tf.saved_model.load(version)
    row = preprocessing.preprocess(image, input_of(Path(version)))
    data = Path(image).read_bytes()
    rates: Rates = {via: {} for via in SIGNATURES}
    for size in map(int, sizes):
        inputs = {
            "images": tf.constant(np.stack([row] * size)),
            "encoded": tf.constant([data] * size),
        }
        for via, signature in SIGNATURES.items():
            call = loaded.signatures[signature]
            call(**{via: inputs[via]})
            count = max(6, int(image_count) // size)
            started = time.perf_counter()
            for _ in range(count):
                call(**{via: inputs[via]})["probabilities"].numpy()
            rates[via][str(size)] = count * size / (time.perf_counter() - started)
    return rates


def measure_server(
    work: Path, command: Sequence[str], version: Path, requests: Mapping[str, bytes], workload: Workload
) -> dict[str, Any]:
    """Return a server's figures under each load, and when it goes over to a new version."""
    base_path = work / "m"
    shutil.copytree(version, base_path / "1")
    with serving(command, base_path, workload) as call:
        return {
            "load": [
                {"via": via, "callers": callers, **load(call, request, callers, count)}
                for via, request in requests.items()
                for callers, count in workload.callers.items()
            ],
            "first_over_median": {
                via: first_over_median(call, request, version, base_path / str(number), workload)
                for number, (via, request) in enumerate(requests.items(), start=2)
            },
        }


@contextlib.contextmanager
def serving(command: Sequence[str], base_path: Path, workload: Workload) -> Iterator[Call]:
    """Run a server with batching; yield a function that sends a request and waits for its answer."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    batching = base_path.with_name("batching.config")
    batching.write_text(
        f"max_batch_size {{ value: {workload.batch_sizes[-1]} }} batch_timeout_micros {{ value: 0 }}\n"
        f"num_batch_threads {{ value: {os.cpu_count()} }}\n"
        + "".join(f"allowed_batch_sizes: {size}\n" for size in workload.batch_sizes)
    )
    flags = [
        f"--port={port}",
        "--model_name=m",
        f"--model_base_path={base_path}",
        "--file_system_poll_wait_seconds=1",
        "--grpc_max_threads=256",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
    ]
    log = base_path.with_name("server.log")
    with log.open("w") as output:
        process = subprocess.Popen([*command, *flags], stdout=output, stderr=output, cwd=figures.ROOT)
        try:
            with grpc.insecure_channel(f"localhost:{port}") as channel:
                wait_until_ready(channel, process, log)
                predict = channel.unary_unary(
                    wire.PREDICT, response_deserializer=wire.PredictResponse.FromString
                )
                yield lambda request: predict(request, timeout=120)
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_ready(channel: grpc.Channel, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the server accepts calls; end the benchmark with the server's log if it never does."""
    ready = grpc.channel_ready_future(channel)
    for _ in range(READY_S):
        with contextlib.suppress(grpc.FutureTimeoutError):
            ready.result(timeout=1)
            return
        if process.poll() is not None:
            break
    sys.exit(f"benchmarks.serving: the server must be ready within {READY_S} s. Its log:\n{log.read_text()}")


def load(call: Call, request: bytes, callers: int, count: int) -> dict[str, float]:
    """Send `count` requests from `callers` threads; return requests/s and latencies in ms."""

    def one(_: int) -> float:
        started = time.perf_counter()
        call(request)
        return time.perf_counter() - started

    with ThreadPoolExecutor(callers) as pool:
        barrier = threading.Barrier(callers)
        list(pool.map(lambda _: barrier.wait(), range(callers)))  # every thread runs before the clock does
        started = time.perf_counter()
        seconds = sorted(pool.map(one, range(count)))
        elapsed = time.perf_counter() - started
    return {
        "requests_per_s": count / elapsed,
        "p50_ms": seconds[len(seconds) // 2] * 1e3,
        "p99_ms": seconds[min(len(seconds) - 1, len(seconds) * 99 // 100)] * 1e3,
    }


def first_over_median(call: Call, request: bytes, version: Path, path: Path, workload: Workload) -> float:
    """Publish a new version at `path`; return its first latency over the median of the next requests."""
    staging = path.with_name(f".staging-{path.name}")
    shutil.copytree(version, staging)
    staging.rename(path)
    asked = wire.PredictRequest.FromString(request)
    asked.model_spec.version.value = int(path.name)
    seconds: list[float] = []
    while len(seconds) < 1 + workload.next_requests:
        started = time.perf_counter()
        try:
            call(asked.SerializeToString())
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            time.sleep(0.005)
        else:
            seconds.append(time.perf_counter() - started)
    return seconds[0] / statistics.median(seconds[1:])


def show(measured: Mapping[str, Any]) -> None:
    """Print the tables."""
    floors = measured["floor"]
    figures.print_table(
        ["floor: batch size", *(f"{via}, images/s" for via in floors)],
        [[size, *(f"{floors[via][size]:.1f}" for via in floors)] for size in floors["images"]],
    )
    for name, server in measured["servers"].items():
        keys = ("requests_per_s", "p50_ms", "p99_ms")
        figures.print_table(
            [name, "callers", "requests/s", "p50 ms", "p99 ms"],
            [
                [row["via"], str(row["callers"]), *(f"{row[key]:,.1f}" for key in keys)]
                for row in server["load"]
            ],
        )
        ratios = ", ".join(f"{via} {ratio:.2f}" for via, ratio in server["first_over_median"].items())
        print(f"first request to a new version, over the median of those that follow: {ratios}\n")


if __name__ == "__main__":
    sys.exit(main())
