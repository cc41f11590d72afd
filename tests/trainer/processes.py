"""`python -m trainer train` in processes that tests may kill."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_LIBRARY_NOTE = re.compile(r"WARNING: All log messages before absl::|[IWEF]\d{4} \d\d:\d\d")


class Trainer:
    """A running trainer, whose log is read line by line."""

    def __init__(
        self,
        settings: Mapping[str, object],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", *flags_of(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **(environment or {})},
        )
        self.log: list[str] = []

    def wait_for(self, part: str) -> str | None:
        """Return the first line of the log that contains `part`; None if the process ends without one."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if part in line:
                return line
        return None

    def finish(self, timeout_s: float = 120) -> int:
        """Wait for the end, read the rest of the log and return the exit code.

        SIGABRT ends a process that hangs, and its log then shows where.
        """
        try:
            _, rest = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            _, rest = self.process.communicate()
        self.log += rest.splitlines(keepends=True)
        return self.process.returncode

    @property
    def own_log(self) -> list[str]:
        """The log without what TensorFlow's libraries write to stderr while they are imported."""
        return [line for line in self.log if not _LIBRARY_NOTE.match(line)]

    @property
    def last_line(self) -> str:
        return self.log[-1] if self.log else ""


def flags_of(settings: Mapping[str, object]) -> list[str]:
    """Return the command line for these settings of `train`."""
    return [part for key, value in settings.items() for part in _flag(key, value)]


def _flag(key: str, value: object) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, str(value)]


def result_of(model_directory: Path, run_id: str) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Return the variables of the only version, and the history of the run without its times."""
    (version,) = model_directory.glob("[0-9]*")
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    # Without the graph of objects beside them, which names functions by a counter.
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
