"""How extraction time falls with the number of workers, each on a core of its own.

    python benchmarks/workers.py

One worker, then as many as there are cores, run the frozen layers of a ResNet50V2 over the same drawings;
each is pinned to one core, so that more workers have more cores, as on more nodes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN_PER_CLASS = 400


def main() -> int:
    """Print a table; return 0."""
    cores = sorted(os.sched_getaffinity(0))
    counts = sorted({1, 2, len(cores)} & set(range(1, len(cores) + 1)))
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "images")
        sample = [sys.executable, "-m", "trainer", "sample", data, "--train-per-class", TRAIN_PER_CLASS]
        subprocess.run(list(map(str, sample)), check=True, stdout=subprocess.DEVNULL)
        seconds = {
            count: _extraction_seconds(data, Path(directory, str(count)), cores[:count]) for count in counts
        }
    print("workers   seconds   × faster")
    for count, taken in seconds.items():
        print(f"{count:>7}   {taken:>7.1f}   {seconds[1] / taken:>8.2f}")
    return 0


def _extraction_seconds(data: Path, model_dir: Path, cores: list[int]) -> float:
    """Train with one worker a core; return the chief's time for the frozen layers, barriers included."""
    sockets = [socket.create_server(("localhost", 0)) for _ in cores]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    flags = {
        "--data": data,
        "--model-dir": model_dir,
        "--backbone": "resnet50v2",
        "--weights": "none",
        "--image-size": 96,
        "--epochs": 1,
        "--run-id": "workers",
    }
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        *(str(part) for pair in flags.items() for part in pair),
    ]
    workers = []
    for index, core in enumerate(cores):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        workers.append(
            subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    if any(worker.wait() for worker in workers):
        raise SystemExit("benchmarks/workers.py: a worker failed.")
    report = json.loads((model_dir / "classifier/.runs/workers/report.json").read_text())
    return float(next(phase["seconds"] for phase in report["phases"] if phase["name"] == "frozen layers"))


if __name__ == "__main__":
    sys.exit(main())
