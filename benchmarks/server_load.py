"""A model server in a process of its own, and the load that `benchmarks.serving` puts on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from benchmarks import figures
from serving_client import wire

READY_S = 180
Call = Callable[[bytes], wire.PredictResponse]


@contextlib.contextmanager
def running(command: Sequence[str], base_path: Path, batch_sizes: Sequence[int]) -> Iterator[Call]:
    """Run a server with batching; yield a function that sends a request and waits for its answer."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    batching = base_path.with_name("batching.config")
    batching.write_text(
        f"max_batch_size {{ value: {batch_sizes[-1]} }} batch_timeout_micros {{ value: 0 }}\n"
        f"num_batch_threads {{ value: {os.cpu_count()} }}\n"
        + "".join(f"allowed_batch_sizes: {size}\n" for size in batch_sizes)
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


def first_over_median(call: Call, request: bytes, version: Path, path: Path, next_requests: int) -> float:
    """Publish a new version at `path`; return its first latency over the median of the next requests."""
    staging = path.with_name(f".staging-{path.name}")
    shutil.copytree(version, staging)
    staging.rename(path)
    asked = wire.PredictRequest.FromString(request)
    asked.model_spec.version.value = int(path.name)
    seconds: list[float] = []
    while len(seconds) < 1 + next_requests:
        started = time.perf_counter()
        try:
            call(asked.SerializeToString())
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            time.sleep(0.005)
        else:
            seconds.append(time.perf_counter() - started)
    return seconds[0] / statistics.median(seconds[1:])
