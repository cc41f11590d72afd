"""`jobs`, `logs` and `cancel` against a fake API server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trainer.fake_api_server import JOB, POD, RUNNING, FakeApiServer
from trainer import __main__ as cli


def test_jobs_lists_name_state_and_reason(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.add_job("a", ready=1, startTime="2026-01-01T00:00:00Z")
    api.add_job("b", failed=2)
    api.end_job("Failed", "BackoffLimitExceeded", "Job has reached", name="b")
    api.add_job("c")
    api.jobs["c"]["spec"]["suspend"] = True
    api.add_job("d")
    assert cli.main(["jobs", "--json"]) == 0
    rows = {row["job"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a": "running",
        "b": "failed",
        "c": "suspended",
        "d": "waiting",
    }
    assert rows["b"]["pods_failed"] == 2
    assert rows["b"]["why"] == "BackoffLimitExceeded: Job has reached"
    assert cli.main(["jobs"]) == 0
    assert "BackoffLimitExceeded" in capsys.readouterr().out


def test_logs_prints_the_lines_written_so_far(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.add_job()
    assert cli.main(["logs", JOB]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count(JOB)) == ("", 1)
    api.add_pod(RUNNING)
    api.logs[POD] = ["one", "two"]
    assert cli.main(["logs", JOB]) == 0
    assert capsys.readouterr().out.splitlines() == ["one", "two"]


def test_logs_of_a_pod_that_does_not_run_yet_says_why(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add_job()
    api.add_pod({"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}})
    api.refuse_logs = 400  # as the API does until the container starts
    assert cli.main(["logs", JOB]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    for part in (POD, "ErrImagePull", "manifest unknown", "example.com/train:1"):
        assert part in printed.err


def test_logs_prints_the_log_of_the_last_pod_that_has_one(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add_job()
    api.add_pod(RUNNING)
    api.end_pod(143)
    api.add_pod(name=f"{JOB}-later")
    api.logs[POD] = ["epoch 1"]
    assert cli.main(["logs", JOB]) == 0
    assert capsys.readouterr().out.splitlines() == ["epoch 1"]


def test_ctrl_c_ends_the_stream_and_not_the_job(api: FakeApiServer, tmp_path: Path) -> None:
    api.add_job()
    command = [sys.executable, "-m", "trainer", "logs", JOB, "--follow"]

    def listen() -> None:
        """Undo that a shell makes its background processes, and their children, ignore SIGINT."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as process:
        deadline = time.monotonic() + 60
        seen: list[bool] = []
        api.scenes = [lambda api: seen.append(True)] * 3
        while len(seen) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"python -m trainer cancel {JOB} --namespace ml" in errors
    assert JOB in api.jobs and api.deleted == []


def test_cancel_deletes_the_job_and_its_pods(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.add_job()
    assert cli.main(["cancel", JOB]) == 0
    ((name, how),) = api.deleted
    assert name == JOB and "Foreground" in how
    capsys.readouterr()
    for command in ("cancel", "logs"):
        assert cli.main([command, JOB]) == 11
        (line,) = capsys.readouterr().err.splitlines()
        assert JOB in line and "namespace ml" in line


@pytest.mark.parametrize("command", [["submit"], ["jobs"], ["logs", JOB], ["cancel", JOB]])
def test_a_refusal_is_one_line(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    api.refuse = 403
    assert cli.main(command) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "403" in line and "k8s/accounts.yaml" in line


def test_a_cluster_that_does_not_answer_is_one_line_with_its_address(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.shutdown()
    api.server_close()
    assert cli.main(["jobs"]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m trainer jobs: ")
    for part in (f"localhost:{api.server_port}", "Connection refused", "kubectl cluster-info"):
        assert part in line
    assert "urllib3" not in line and "HTTPConnection" not in line
