"""How the time for the frozen layers falls with the number of workers.

    python -m benchmarks.workers --json OUT

One worker, then two, then as many as there are cores, run the frozen layers of a ResNet50V2 over the same
drawings. Each worker is pinned to a core of its own, so that more workers have more cores, as on more nodes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import figures

STAGE = "frozen layers"
"""Its name in the run's report.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What the workers share."""

    train_per_class: int = 400
    backbone: str = "resnet50v2"
    image_size_px: int = 96


QUICK = Workload(train_per_class=4, backbone="vgg16", image_size_px=32)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    arguments = figures.parse_arguments(__doc__, argv)
    workload = QUICK if arguments.quick else Workload()
    cores = sorted(os.sched_getaffinity(0))
    counts = sorted({1, min(2, len(cores)), len(cores)})
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "images")
        figures.run_trainer("sample", data, "--train-per-class", workload.train_per_class)
        seconds = {
            count: extraction_seconds(data, Path(directory, str(count)), cores[:count], workload)
            for count in counts
        }
    figures.print_table(
        ["workers", "seconds", "× faster"],
        [[str(count), f"{wall:.1f}", f"{seconds[1] / wall:.2f}"] for count, wall in seconds.items()],
    )
    speedups = {count: seconds[1] / wall for count, wall in seconds.items()}
    return figures.finish({"seconds": seconds, "speedup": speedups}, {}, arguments)


def extraction_seconds(data: Path, model_dir: Path, cores: Sequence[int], workload: Workload) -> float:
    """Train with one worker per core; return the chief's time for the frozen layers, barriers included."""
    command = [
        *(sys.executable, "-m", "trainer", "train", "--data", str(data), "--model-dir", str(model_dir)),
        *("--backbone", workload.backbone, "--weights", "none", "--image-size", str(workload.image_size_px)),
        *("--epochs", "1", "--run-id", "workers"),
    ]
    addresses = free_addresses(len(cores))
    workers = []
    for index, core in enumerate(cores):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                env={**os.environ, "TF_CONFIG": json.dumps(cluster)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=figures.ROOT,
            )
        )
    # All of them, so that none outlives the temporary directory.
    if any([worker.wait() for worker in workers]):
        sys.exit(f"benchmarks.workers: a worker failed. Run it alone to see why: {' '.join(command)}")
    report = json.loads((model_dir / "classifier/.runs/workers/report.json").read_text())
    return float(next(stage["seconds"] for stage in report["stages"] if stage["name"] == STAGE))


def free_addresses(count: int) -> list[str]:
    """Return addresses on this machine with different free ports."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


if __name__ == "__main__":
    sys.exit(main())
