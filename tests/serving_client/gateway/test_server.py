"""The command `gateway`: its start, its end and its exit codes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from tests.model_servers import Version, fake_server
from tests.serving_client.gateway.conftest import pictures, running


def test_requests_in_flight_finish_after_sigterm(tmp_path: Path, image_tree: Path) -> None:
    content = pictures(image_tree)[0].read_bytes()
    with (
        fake_server(Version()) as server,
        running(server.address, tmp_path / "log", "--wait", model="m") as (url, process),
    ):
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/classify", content=content, trust_env=False, timeout=60))

        thread = threading.Thread(target=ask)
        thread.start()  # it waits for the model server, which is not running yet
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        server.start()
        thread.join()
        assert process.wait(timeout=60) == 0
    assert answers[0].status_code == 200


def test_a_port_in_use_is_an_error(gateway: str, tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "serving_client",
        "gateway",
        "--model",
        "m",
        "--port",
        gateway.rpartition(":")[2],
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_extra_the_command_names_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    argv = [sys.executable, "-m", "serving_client", "gateway", "--model", "m"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m serving_client: ")
    for fact in ("`gateway`", "uvicorn", "pip install"):
        assert fact in done.stderr
    assert done.stderr.count("\n") == 1
