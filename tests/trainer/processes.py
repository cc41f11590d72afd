"""`python -m trainer train` as processes of their own, for tests that kill them."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class Trainer:
    """A running trainer, whose log is read line by line."""

    def __init__(
        self,
        settings: Mapping[str, object],
        environment: Mapping[str, str] | None = None,
        largest_file_bytes: int | None = None,
    ) -> None:
        flags = [part for key, value in settings.items() for part in _flag(key, value)]

        def limit() -> None:
            assert largest_file_bytes is not None
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))

        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **(environment or {})},
            preexec_fn=limit if largest_file_bytes else None,
        )
        self.log: list[str] = []

    def wait_for(self, part: str) -> str | None:
        """Return the first line of the log that holds this; None if the process ends without one."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if part in line:
                return line
        return None

    def finish(self, timeout_s: float = 120) -> int:
        """Return the exit code; the rest of the log is then read.

        A process that hangs is ended with SIGABRT, and its log shows where it hung.
        """
        try:
            _, rest = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            _, rest = self.process.communicate()
        self.log += rest.splitlines(keepends=True)
        return self.process.returncode

    @property
    def last_line(self) -> str:
        return self.log[-1] if self.log else ""


def _flag(key: str, value: object) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, str(value)]


def result_of(model_directory: Path, run_id: str) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Return the variables of the only version, and the history of the run without its times."""
    (version,) = model_directory.glob("[0-9]*")
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    # Not the graph of objects that lies beside them: it names functions by a counter.
    names = sorted(name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECK"))
    values = [reader.get_tensor(name) for name in names]
    values.sort(key=lambda value: (value.shape, value.tobytes()))  # Keras numbers them in no fixed order
    history = json.loads((model_directory / ".runs" / run_id / "history.json").read_text())
    return values, [{key: value for key, value in one.items() if key != "seconds"} for one in history]


def assert_same_bits(
    left: tuple[list[np.ndarray], list[dict[str, Any]]],
    right: tuple[list[np.ndarray], list[dict[str, Any]]],
) -> None:
    assert left[1] == right[1]
    assert len(left[0]) == len(right[0]) > 10
    for one, other in zip(left[0], right[0], strict=True):
        np.testing.assert_array_equal(one, other)


def tf_configs(workers: int) -> list[dict[str, str]]:
    """Return the environment of each worker, on free ports of this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )
        }
        for index in range(workers)
    ]
