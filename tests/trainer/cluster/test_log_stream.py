"""`logs --follow` prints each line of a Job's log once, whatever happens to connections and pods."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from urllib3.exceptions import HTTPError

from tests.trainer.fake_api_server import (
    JOB,
    POD,
    RUNNING,
    FakeApiServer,
    complete,
    nothing,
    run_pod,
    stream_log,
)
from trainer.cluster import jobs, log_stream
from trainer.cluster.jobs import TrainingJobs
from trainer.errors import ClusterError


def test_a_log_whose_stream_is_cut_is_printed_once(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"epoch {number}/20  ∑" for number in range(20)]
    api.logs[POD] = lines
    api.cut_logs_after = 7
    assert stream_log(api, run_pod, nothing, complete) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == lines
    first, last = printed.err.splitlines()
    assert POD in first and "node-1" in first
    assert JOB in last


def test_lines_with_the_same_time_stamp_are_all_printed(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.logs[POD] = ["one", "same moment", "same again", "two"]
    api.cut_logs_after = 2
    assert stream_log(api, run_pod, nothing, complete) == 0
    assert capsys.readouterr().out.splitlines() == api.logs[POD]


def test_a_stream_that_ends_within_a_line_loses_no_part_of_it(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.logs[POD] = ["epoch 1 of 20", "epoch 2 of 20", "epoch 3 of 20"]
    api.end_logs_within = 80  # within the second
    assert stream_log(api, run_pod, nothing, complete) == 0
    assert capsys.readouterr().out.splitlines() == api.logs[POD]


def test_a_dead_connection_is_replaced(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.2, raising=False)
    api.logs[POD] = ["one", "two"]
    api.stall_logs = True
    began = time.monotonic()
    assert stream_log(api, run_pod, nothing, complete) == 0
    assert time.monotonic() - began < 10
    assert capsys.readouterr().out.splitlines() == ["one", "two"]


def test_a_log_that_may_not_be_read_is_reported_once_while_the_job_runs(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse_logs = 403
    seen: list[str] = []

    def look(api: FakeApiServer) -> None:
        seen.append(capsys.readouterr().err)

    assert stream_log(api, run_pod, nothing, nothing, look, complete) == 0
    (line,) = [line for line in seen[0].splitlines() if "403" in line]
    assert POD in line


def test_requests_for_a_stream_that_ends_at_once_are_spaced(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "POLL_S", 0.2)
    began = time.monotonic()
    assert stream_log(api, run_pod, *[nothing] * 6, complete) == 0
    assert time.monotonic() - began > 0.6


def test_the_log_of_a_pod_that_has_ended_is_read_to_its_end(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.logs[POD] = [f"epoch {number}" for number in range(9)]
    api.cut_logs_after = 4

    def start_and_end(api: FakeApiServer) -> None:
        api.add_pod(RUNNING)
        complete(api)

    assert stream_log(api, start_and_end) == 0
    assert capsys.readouterr().out.splitlines() == api.logs[POD]


def test_a_log_that_is_not_utf_8_is_printed(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.logs[POD] = ["before", "\udcff\udcfe", "after"]  # bytes that are not UTF-8
    assert stream_log(api, run_pod, complete) == 0
    assert capsys.readouterr().out.splitlines() == ["before", "��", "after"]


def test_the_log_of_a_replacement_follows(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    second = f"{JOB}-fghij"
    api.logs = {POD: ["epoch 1"], second: ["resumed", "epoch 2"]}

    def evict(api: FakeApiServer) -> None:
        api.end_pod(143)

    def replace(api: FakeApiServer) -> None:
        api.add_pod(RUNNING, second)

    def end(api: FakeApiServer) -> None:
        api.end_pod(0, second)
        api.end_job("Complete")

    assert stream_log(api, run_pod, evict, nothing, replace, end) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["epoch 1", "resumed", "epoch 2"]
    (line,) = [line for line in printed.err.splitlines() if "143" in line]
    assert POD in line


def test_the_log_of_the_pod_after_a_deleted_one_follows(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    second = f"{JOB}-fghij"
    api.logs = {POD: ["epoch 1"], second: ["epoch 2"]}

    def replace(api: FakeApiServer) -> None:
        del api.pods[POD]
        api.add_pod(RUNNING, second)

    def end(api: FakeApiServer) -> None:
        api.end_pod(0, second)
        api.end_job("Complete")

    assert stream_log(api, run_pod, replace, nothing, end) == 0
    assert capsys.readouterr().out.splitlines() == ["epoch 1", "epoch 2"]


def test_only_the_log_of_worker_0_is_printed(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.logs = {f"{JOB}-0-a": ["the chief"], f"{JOB}-1-b": ["a worker"]}

    def start(api: FakeApiServer) -> None:
        api.add_pod(RUNNING, f"{JOB}-1-b", worker=1)
        api.add_pod(RUNNING, f"{JOB}-0-a", worker=0)

    def end(api: FakeApiServer) -> None:
        for name in (f"{JOB}-0-a", f"{JOB}-1-b"):
            api.end_pod(0, name)
        api.end_job("Complete")

    assert stream_log(api, start, end) == 0
    assert capsys.readouterr().out.splitlines() == ["the chief"]


def test_a_cluster_that_pauses_is_asked_again(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(jobs: TrainingJobs, name: str) -> list[Any]:
        monkeypatch.setattr(TrainingJobs, "pods", pods)
        raise ClusterError("The cluster does not answer: x.") from HTTPError()

    pods = TrainingJobs.pods
    monkeypatch.setattr(TrainingJobs, "pods", pause)
    assert stream_log(api, nothing, run_pod, complete) == 0
    assert capsys.readouterr().err.count("The cluster does not answer: x.") == 1


def test_a_cluster_that_pauses_when_a_log_breaks_is_asked_again(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(jobs: TrainingJobs, name: str) -> list[Any]:
        monkeypatch.setattr(TrainingJobs, "pods", pods)
        raise ClusterError("The cluster does not answer: x.") from HTTPError()

    def log(jobs: TrainingJobs, pod: str, follow: bool) -> Iterator[str]:
        monkeypatch.setattr(TrainingJobs, "log", whole_log)
        monkeypatch.setattr(TrainingJobs, "pods", pause)
        yield from ()

    pods, whole_log = TrainingJobs.pods, TrainingJobs.log
    api.logs[POD] = ["one", "two"]
    monkeypatch.setattr(TrainingJobs, "log", log)
    assert stream_log(api, run_pod, nothing, complete) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["one", "two"]
    assert printed.err.count("The cluster does not answer: x.") == 1


def test_a_job_that_somebody_cancels_is_an_error(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stream_log(api, run_pod, lambda api: api.jobs.clear()) == 11
    assert JOB in capsys.readouterr().err.splitlines()[-1]


def test_an_api_server_that_fails_is_an_error(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    def go(api: FakeApiServer) -> None:
        api.refuse = 503

    assert stream_log(api, nothing, go) == 11
    assert "503" in capsys.readouterr().err
