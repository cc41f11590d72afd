"""How fast a version is served, beside the same SavedModel called in one process.

    python benchmarks/serving.py --json OUT [--weights FILE.weights.h5]

An Xception at 150 px is published by the trainer itself. `local_server`, and `tensorflow_model_server` where
TENSORFLOW_MODEL_SERVER names one, serve it with batching to 1, 8 and 64 callers at the same time, who send
one picture a request, as float32 (`images`) and as JPEG bytes (`encoded`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
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
import limits  # beside this file
import numpy as np
from rich.console import Console
from rich.table import Table

from serving_client import codec, preprocessing, wire
from serving_client.preprocessing import InputSpec

IMAGE_SIZE_PX = 150
CONCURRENCY = {1: 60, 8: 240, 64: 960}
"""Callers at the same time, and how many requests they send together."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
BATCHING = (
    "max_batch_size {{ value: {} }} batch_timeout_micros {{ value: 0 }} num_batch_threads {{ value: {} }}\n"
)
LIMITS: limits.Limits = {"first_over_median": ("<=", 1.5), "batched_c64_over_floor": (">=", 0.85)}

Requests = Mapping[str, bytes]


def main() -> int:
    """Print the tables; return 0 if both limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="where the figures go")
    parser.add_argument("--weights", default="none", help="of Xception without its top (default: none)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), arguments.weights)
    arguments.json.write_text(json.dumps(figures, indent=2))
    show(figures)
    return 0 if limits.hold(figures, LIMITS) else 1


def measure(work: Path, weights: str) -> dict[str, Any]:
    """Return all figures as the JSON file holds them.

    `batched_c64_over_floor` compares with the floor at the largest batch size: what 64 callers fill.
    """
    version, pictures = publish(work, weights)
    requests = requests_for(pictures[0])
    before = floor(version, pictures[0])
    figures: dict[str, Any] = {"servers": {}}
    programs = {"local_server": [sys.executable, "-m", "local_server"]}
    if path := os.environ.get("TENSORFLOW_MODEL_SERVER"):
        programs["tensorflow_model_server"] = [path]
    for name, command in programs.items():
        base_path = work / name / "m"
        base_path.mkdir(parents=True)
        shutil.copytree(version, base_path / "1")
        with serving(command, base_path, work) as channel:
            call = caller(channel)
            figures["servers"][name] = {
                "load": [
                    {"via": via, "concurrency": callers, **load(call, request, callers, count)}
                    for via, request in requests.items()
                    for callers, count in CONCURRENCY.items()
                ],
                "first_over_median": first_over_median(call, requests, version, base_path),
            }
    # Before and after: the machine is not equally fast all the time.
    after = floor(version, pictures[0])
    figures["floor"] = {
        via: {size: statistics.mean([before[via][size], after[via][size]]) for size in BATCH_SIZES}
        for via in requests
    }
    ours = figures["servers"]["local_server"]
    figures["first_over_median"] = max(ours["first_over_median"].values())
    figures["batched_c64_over_floor"] = min(
        row["requests_per_s"] / figures["floor"][row["via"]][BATCH_SIZES[-1]]
        for row in ours["load"]
        if row["concurrency"] == 64
    )
    return figures


def publish(work: Path, weights: str) -> tuple[Path, list[Path]]:
    """Have the trainer publish a version; return its directory and the validation pictures."""
    trainer = [sys.executable, "-m", "trainer"]
    images = work / "images"
    subprocess.run([*trainer, "sample", images, "--train-per-class", "4"], check=True)
    settings = {
        "--data": images,
        "--model-dir": work / "published",
        "--name": "m",
        "--weights": weights,
        "--image-size": IMAGE_SIZE_PX,
        "--epochs": 1,
    }
    flags = [str(part) for pair in settings.items() for part in pair]
    subprocess.run([*trainer, "train", *flags], check=True)
    return work / "published" / "m" / "1", sorted(images.glob("validation/*/*"))


def requests_for(picture: Path) -> Requests:
    """Return one request for each way of sending."""
    spec = InputSpec(IMAGE_SIZE_PX, IMAGE_SIZE_PX, "tf")
    row = preprocessing.preprocess(picture, spec)[np.newaxis]
    return {
        "images": codec.encode_predict_request("m", "serving_default", {"images": row}),
        "encoded": codec.encode_predict_request("m", "encoded_images", {"encoded": [picture.read_bytes()]}),
    }


def floor(version: Path, picture: Path) -> dict[str, dict[int, float]]:
    """Return images/s of the SavedModel in a process of its own, by way and batch size."""
    code = "import sys; from benchmarks.serving import print_floor; print_floor(*sys.argv[1:])"
    argv = [sys.executable, "-c", code, str(version), str(picture)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    return {
        via: {int(size): rate for size, rate in rates.items()}
        for via, rates in json.loads(done.stdout.splitlines()[-1]).items()
    }


def print_floor(version: str, picture: str) -> None:
    """Print what `floor` returns as JSON."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    loaded = tf.saved_model.load(version)
    row = preprocessing.preprocess(picture, InputSpec(IMAGE_SIZE_PX, IMAGE_SIZE_PX, "tf"))
    data = Path(picture).read_bytes()
    rates: dict[str, dict[int, float]] = {"images": {}, "encoded": {}}
    for size in BATCH_SIZES:
        inputs = {
            "images": {"images": tf.constant(np.stack([row] * size))},
            "encoded": {"encoded": tf.constant([data] * size)},
        }
        for via, signature in (("images", "serving_default"), ("encoded", "encoded_images")):
            call = loaded.signatures[signature]
            call(**inputs[via])
            count = max(6, 128 // size)
            started = time.perf_counter()
            for _ in range(count):
                call(**inputs[via])["probabilities"].numpy()
            rates[via][size] = count * size / (time.perf_counter() - started)
    print(json.dumps(rates))


@contextlib.contextmanager
def serving(command: Sequence[str], base_path: Path, work: Path) -> Iterator[grpc.Channel]:
    """Run a server with batching; yield a channel to it once it answers."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    batching = work / "batching.config"
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in BATCH_SIZES)
    batching.write_text(BATCHING.format(BATCH_SIZES[-1], os.cpu_count()) + sizes)
    flags = [
        f"--port={port}",
        "--model_name=m",
        f"--model_base_path={base_path}",
        "--file_system_poll_wait_seconds=1",
        "--grpc_max_threads=256",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
    ]
    with (work / "server.log").open("a") as log:
        process = subprocess.Popen([*command, *flags], stdout=log, stderr=log)
        try:
            with grpc.insecure_channel(f"localhost:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=180)
                yield channel
        finally:
            process.terminate()
            process.wait(timeout=60)


def caller(channel: grpc.Channel) -> Callable[[bytes], wire.PredictResponse]:
    """Return a function that sends a request and waits for its answer."""
    predict = channel.unary_unary(wire.PREDICT, response_deserializer=wire.PredictResponse.FromString)
    return lambda request: predict(request, timeout=120)


def load(
    call: Callable[[bytes], wire.PredictResponse],
    request: bytes,
    callers: int,
    count: int,
) -> dict[str, float]:
    """Send `count` requests from `callers` threads; return requests/s and latencies in ms."""

    def one(_: int) -> float:
        started = time.perf_counter()
        call(request)
        return time.perf_counter() - started

    with ThreadPoolExecutor(callers) as pool:
        barrier = threading.Barrier(callers)
        list(pool.map(lambda _: barrier.wait(), range(callers)))  # threads are there before the clock runs
        started = time.perf_counter()
        seconds = sorted(pool.map(one, range(count)))
        elapsed = time.perf_counter() - started
    return {
        "requests_per_s": count / elapsed,
        "p50_ms": seconds[len(seconds) // 2] * 1e3,
        "p99_ms": seconds[min(len(seconds) - 1, len(seconds) * 99 // 100)] * 1e3,
    }


def first_over_median(
    call: Callable[[bytes], wire.PredictResponse],
    requests: Requests,
    version: Path,
    base_path: Path,
) -> dict[str, float]:
    """Publish one more version for each way of sending; compare its first answer with the next hundred."""
    ratios = {}
    for number, (via, request) in enumerate(requests.items(), start=2):
        staging = base_path / f".staging-{number}"
        shutil.copytree(version, staging)
        staging.rename(base_path / str(number))
        asked = wire.PredictRequest.FromString(request)
        asked.model_spec.version.value = number
        seconds: list[float] = []
        while len(seconds) < 101:
            started = time.perf_counter()
            try:
                call(asked.SerializeToString())
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND, error
                time.sleep(0.005)
            else:
                seconds.append(time.perf_counter() - started)
        ratios[via] = seconds[0] / statistics.median(seconds[1:])
    return ratios


def show(figures: Mapping[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=100)
    table = Table("batch size", "images: images/s", "encoded: images/s", title="floor: in one process")
    for size in BATCH_SIZES:
        table.add_row(str(size), *(f"{figures['floor'][via][size]:.1f}" for via in ("images", "encoded")))
    console.print(table)
    for name, server in figures["servers"].items():
        table = Table("via", "concurrency", "requests/s", "p50 ms", "p99 ms", title=name)
        for row in server["load"]:
            rates = (f"{row[key]:.1f}" for key in ("requests_per_s", "p50_ms", "p99_ms"))
            table.add_row(row["via"], str(row["concurrency"]), *rates)
        console.print(table)
        ratios = ", ".join(f"{via} {ratio:.2f}" for via, ratio in server["first_over_median"].items())
        print(f"first request to a new version, over the median of the next 100: {ratios}")


if __name__ == "__main__":
    sys.exit(main())
