"""Ctrl-C ends the command at once with code 130, whatever it waits for."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving_client.holding_server import HoldingModel, serving, silent_server

DEADLINE_S = "300"
END_S = 30
"""Far less than the deadline, far more than a busy machine needs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 pictures: more than are in flight at the same time."""
    for number in range(300):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"{number:03}.png")
    return tmp_path


@contextmanager
def command(*arguments: object, address: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "serving_client", *map(str, arguments)]
    argv += ["--server", address, "--model", "m", "--timeout-s", DEADLINE_S, "--wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send what Ctrl-C sends; the standard input stays open, as a terminal does."""
    process.send_signal(signal.SIGINT)
    assert process.wait(END_S) == 130
    assert process.stderr
    assert process.stderr.read() == b""


@pytest.mark.parametrize("name", ["classify", "describe", "status", "bench"])
def test_while_the_server_accepts_and_never_answers(name: str, folder: Path) -> None:
    arguments = [folder] if name == "classify" else []
    with (
        silent_server() as (address, connected),
        command(name, *arguments, address=address) as process,
    ):
        connected()
        interrupt(process)


@pytest.mark.parametrize(
    ("arguments", "answers_first"),
    [
        pytest.param(lambda folder: ["classify", folder], 0, id="classify many"),
        pytest.param(lambda folder: ["classify", folder], 3, id="classify many, some answered"),
        pytest.param(lambda folder: ["classify", folder / "000.png"], 0, id="classify one"),
        pytest.param(lambda folder: ["bench", "--concurrency", 16], 0, id="bench, first call"),
        pytest.param(lambda folder: ["bench", "--concurrency", 16], 5, id="bench, concurrent calls"),
    ],
)
def test_while_images_are_in_flight(
    arguments: Callable[[Path], list[object]], answers_first: int, folder: Path
) -> None:
    model = HoldingModel(is_held=True, answers_first=answers_first)
    with serving(model) as address, command(*arguments(folder), address=address) as process:
        assert model.arrived.wait(60)
        interrupt(process)


def test_while_it_reads_standard_input() -> None:
    model = HoldingModel()
    with serving(model) as address, command("classify", "-", address=address) as process:
        assert process.stdin
        process.stdin.write(b"the beginning of an image")
        process.stdin.flush()
        while has_unread_input(process):
            assert process.poll() is None
        interrupt(process)


def has_unread_input(process: subprocess.Popen[bytes]) -> bool:

    assert process.stdin
    unread = fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return bool(struct.unpack("i", unread)[0])


def test_a_script_that_leaves_a_client_open_ends_too(tmp_path: Path) -> None:
    """No thread of the client delays the end of the program, also without `close`."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from serving_client import Client\n"
        "client = Client(sys.argv[1], model='m', timeout_s=300)\n"
        "client.classify([np.zeros((4, 4, 3), np.uint8)] * 300)\n"
    )
    model = HoldingModel(is_held=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with serving(model) as address:
        argv = [sys.executable, str(script), address]
        with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE) as process:
            try:
                assert model.arrived.wait(60)
                process.send_signal(signal.SIGINT)
                assert process.wait(END_S) in (130, -signal.SIGINT)
                assert process.stderr
                assert process.stderr.read().rstrip().endswith(b"KeyboardInterrupt")
            finally:
                process.kill()
