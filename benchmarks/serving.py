"""How fast a version is served, compared with the same SavedModel called in one process.

    python -m benchmarks.serving --weights FILE.weights.h5 --json OUT

The trainer publishes an Xception at 150 px, with random weights if --weights is left out. `local_server`
serves it with batching. So does `tensorflow_model_server`, if TENSORFLOW_MODEL_SERVER names that program.
1, 8 and 64 concurrent callers send one image per request: float32 (`images`) and JPEG bytes (`encoded`).
The floor is the same SavedModel called in one process, the mean of a measurement before and one after.
There, batches of 8 with and without the answer's `model_id` take turns.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import figures, server_load
from serving_client import codec, preprocessing
from serving_client.model_card import parse_model_card
from serving_client.preprocessing import InputSpec

LIMITS: figures.Limits = {
    "first_over_median": ("<=", 1.5),
    "batched_over_floor": (">=", 0.85),
    "with_model_id_over_without": ("<=", 1.02),
}
SIGNATURES = {"images": "serving_default", "encoded": "encoded_images"}

Rates = dict[str, dict[str, float]]
"""Images/s by request type, then by batch size as text."""


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
        "with_model_id_over_without": identity_cost(version, image, workload),
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
    return parse_model_card((version / "assets.extra" / "model_card.json").read_bytes()).input


def requests_for(image: Path, spec: InputSpec) -> dict[str, bytes]:
    """Return one request of each type."""
    row = preprocessing.preprocess(image, spec)[np.newaxis]
    return {
        "images": codec.encode_predict_request("m", SIGNATURES["images"], {"images": row}),
        "encoded": codec.encode_predict_request(
            "m", SIGNATURES["encoded"], {"encoded": [image.read_bytes()]}
        ),
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


def identity_cost(version: Path, image: Path, workload: Workload) -> float:
    """Return the seconds of an answer with `model_id`, over those of one without it."""
    cost: float = figures.call_in_new_process(
        "serving", "compare_with_and_without_identity", str(version), str(image), str(workload.floor_images)
    )
    return cost


def compare_with_and_without_identity(version: str, image: str, rounds: str) -> float:
    """Run `serving_default` in a session, as TensorFlow Serving does; the two ways take turns."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2

    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], version)
    signature = loaded.signature_def[SIGNATURES["images"]]
    batch = np.stack([preprocessing.preprocess(image, input_of(Path(version)))] * 8)
    calls = []
    for names in (("logits", "model_id", "probabilities"), ("logits", "probabilities")):
        options = config_pb2.CallableOptions(
            feed=[signature.inputs["images"].name], fetch=[signature.outputs[name].name for name in names]
        )
        calls.append(session._make_callable_from_options(options))
    seconds: list[list[float]] = [[], []]
    for call in calls:
        call(batch)
    for _ in range(int(rounds)):
        for call, measured in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call(batch)
            measured.append(time.perf_counter() - started)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def measure_server(
    work: Path, command: Sequence[str], version: Path, requests: Mapping[str, bytes], workload: Workload
) -> dict[str, Any]:
    """Return a server's figures under each load, and when it goes over to a new version."""
    base_path = work / "m"
    shutil.copytree(version, base_path / "1")
    with server_load.running(command, base_path, workload.batch_sizes) as call:
        return {
            "load": [
                {"via": via, "callers": callers, **server_load.load(call, request, callers, count)}
                for via, request in requests.items()
                for callers, count in workload.callers.items()
            ],
            "first_over_median": {
                via: server_load.first_over_median(
                    call, request, version, base_path / str(number), workload.next_requests
                )
                for number, (via, request) in enumerate(requests.items(), start=2)
            },
        }


def show(measured: Mapping[str, Any]) -> None:
    """Print the tables."""
    print(f"answers with model_id take {measured['with_model_id_over_without']:.3f} of those without it")
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
