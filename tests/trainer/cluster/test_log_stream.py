"""What `logs --follow` says and prints when the cluster is at its worst, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.kubernetes_api import JOB, POD, RUNNING, Api
from trainer import __main__ as cli
from trainer.cluster import jobs, log_stream


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    server = Api()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(log_stream, "POLL_S", 0.01)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def follow(api: Api, *scenes: Any) -> int:
    api.add_job()
    # `logs` looks for the Job once, before it follows.
    api.scenes = [nothing, *scenes]
    return cli.main(["logs", JOB, "--follow"])


def nothing(api: Api) -> None:
    pass


def run_pod(api: Api) -> None:
    api.add_pod(RUNNING)


def complete(api: Api) -> None:
    api.end_pod(0)
    api.end_job("Complete")


def test_lines_of_the_same_moment_are_all_printed(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.logs[POD] = ["one", "same moment", "same again", "two"]
    api.cut_logs_after = 2
    assert follow(api, run_pod, nothing, complete) == 0
    assert capsys.readouterr().out.splitlines() == api.logs[POD]


def test_a_stream_that_ends_amid_a_line_loses_nothing_of_it(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.logs[POD] = ["epoch 1 of 20", "epoch 2 of 20", "epoch 3 of 20"]
    api.end_logs_within = 80  # within the second
    assert follow(api, run_pod, nothing, complete) == 0
    assert capsys.readouterr().out.splitlines() == api.logs[POD]


def test_a_dead_connection_is_left_for_a_new_one(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.2, raising=False)
    api.logs[POD] = ["one", "two"]
    api.stall_logs = True
    began = time.monotonic()
    assert follow(api, run_pod, nothing, complete) == 0
    assert time.monotonic() - began < 10
    assert capsys.readouterr().out.splitlines() == ["one", "two"]


def test_logs_that_may_not_be_read_are_said_once_while_the_run_goes_on(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse_logs = 403
    seen: list[str] = []

    def look(api: Api) -> None:
        seen.append(capsys.readouterr().err)

    assert follow(api, run_pod, nothing, nothing, look, complete) == 0
    said = [line for line in seen[0].splitlines() if "403" in line]
    assert len(said) == 1
    assert f"The log of pod {POD} cannot be read" in said[0]


def test_a_stream_that_ends_at_once_is_not_asked_for_without_a_pause(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "POLL_S", 0.2)
    began = time.monotonic()
    assert follow(api, run_pod, *[nothing] * 6, complete) == 0
    assert time.monotonic() - began > 0.6


def test_a_quota_that_refuses_every_try_is_said_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(tail: str) -> Any:
        message = f'Error creating: pods "{JOB}-{tail}" is forbidden: exceeded quota: gpus, limited: 0'
        return lambda api: api.add_event(JOB, "FailedCreate", message)

    assert follow(api, refuse("x7k2p"), refuse("9qwzt"), refuse("bbbbb"), run_pod, complete) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "FailedCreate" in line]
    assert "exceeded quota: gpus, limited: 0" in line


def test_a_pod_that_pod_security_refuses_is_said(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    message = f'Error creating: pods "{JOB}-x7k2p" is forbidden: violates PodSecurity "restricted:latest"'
    assert follow(api, lambda api: api.add_event(JOB, "FailedCreate", message), run_pod, complete) == 0
    assert 'violates PodSecurity "restricted:latest"' in capsys.readouterr().err


def test_a_missing_claim_is_no_want_of_nodes(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": '0/3 nodes are available: persistentvolumeclaim "data" not found.',
    }
    assert follow(api, lambda api: api.add_pod(conditions=[condition]), run_pod, complete) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "persistentvolumeclaim" in line]
    assert "claim" in line.partition("not found.")[2]
    assert "add nodes" not in line


def test_an_image_is_said_once_though_the_reason_goes_back_and_forth(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    def pull(reason: str, message: str) -> Any:
        return lambda api: api.add_pod({"waiting": {"reason": reason, "message": message}})

    assert (
        follow(
            api,
            pull("ErrImagePull", "manifest unknown"),
            pull("ImagePullBackOff", 'Back-off pulling image "example.com/train:1"'),
            pull("ErrImagePull", "manifest unknown: request 2"),
            run_pod,
            complete,
        )
        == 0
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be pulled" in line]
    assert "example.com/train:1" in line and "manifest unknown" in line


def test_an_init_container_that_fails_is_said_with_how_to_see_why(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(api: Api) -> None:
        api.add_pod(init={"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:01:00Z"}})

    def give_up(api: Api) -> None:
        api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    assert follow(api, fail, nothing, give_up) == 11
    said = capsys.readouterr().err
    assert f"Pod {POD}: fetch-data ended with code 3" in said
    assert f"kubectl logs {POD} --container fetch-data --namespace ml" in said
    assert "BackoffLimitExceeded" in said


@pytest.mark.parametrize("ignored", [9, 143])
def test_a_code_that_the_job_does_not_count_is_not_its_outcome(api: Api, ignored: int) -> None:
    def fail(api: Api) -> None:
        api.end_pod(7)
        api.add_pod(RUNNING, f"{JOB}-later")
        api.end_pod(ignored, f"{JOB}-later")
        terminated = api.pods[f"{JOB}-later"]["status"]["containerStatuses"][0]["state"]["terminated"]
        terminated["finishedAt"] = "2026-01-01T00:02:00Z"
        api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    assert follow(api, run_pod, fail) == 7


def test_a_bug_is_called_one(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(api: Api) -> None:
        api.end_pod(1)
        api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    assert follow(api, run_pod, fail) == 1
    assert "ended with code 1 (a bug: the log ends with its traceback)" in capsys.readouterr().err


def test_a_pod_whose_node_is_gone_does_not_hold_up_the_end(api: Api) -> None:
    """Its container still counts as running: nobody is left on the node to say otherwise."""

    def lose(api: Api) -> None:
        api.pods[POD]["status"]["phase"] = "Failed"
        api.refuse_logs = 500

    def end(api: Api) -> None:
        api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def give_up(api: Api) -> None:  # instead of following for ever
        api.refuse = 410

    # It failed for want of a code: the condition is what there is to say.
    assert follow(api, run_pod, lose, end, nothing, nothing, nothing, nothing, give_up) == 11
    assert api.refuse is None


def test_the_log_of_a_pod_that_does_not_run_yet_is_what_it_waits_for(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add_job()
    api.add_pod({"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}})
    api.refuse_logs = 400  # as the API does until the container has started
    assert cli.main(["logs", JOB]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the image example.com/train:1 cannot be pulled" in printed.err
    assert "has not started yet" in printed.err


def test_the_log_is_that_of_the_last_pod_that_has_one(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.add_job()
    api.add_pod(RUNNING)
    api.end_pod(143)
    api.add_pod(name=f"{JOB}-later")
    api.logs[POD] = ["epoch 1"]
    assert cli.main(["logs", JOB]) == 0
    assert capsys.readouterr().out.splitlines() == ["epoch 1"]


def test_a_job_that_somebody_cancels_is_said(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(api, run_pod, lambda api: api.jobs.clear()) == 11
    assert f"There is no training Job {JOB} in namespace ml." in capsys.readouterr().err


def test_an_api_that_goes_away_is_said(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def go(api: Api) -> None:
        api.refuse = 503

    assert follow(api, nothing, go) == 11
    assert "503" in capsys.readouterr().err


def test_the_rest_of_an_ended_pods_log_is_read_again_when_its_stream_is_cut(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.logs[POD] = [f"epoch {number}" for number in range(9)]
    api.cut_logs_after = 4

    def start_and_end(api: Api) -> None:
        api.add_pod(RUNNING)
        complete(api)

    assert follow(api, start_and_end) == 0
    assert capsys.readouterr().out.splitlines() == api.logs[POD]


def test_a_container_without_the_time_of_its_end_still_has_a_code(api: Api) -> None:
    def fail(api: Api) -> None:
        for name in (POD, f"{JOB}-later"):
            api.add_pod(RUNNING, name)
            api.end_pod(137, name)
        del api.pods[POD]["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
        api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    assert follow(api, fail) == 137


def test_a_log_that_is_no_text_is_printed_all_the_same(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.logs[POD] = ["before", "\udcff\udcfe", "after"]  # bytes that are no UTF-8
    assert follow(api, run_pod, complete) == 0
    assert capsys.readouterr().out.splitlines() == ["before", "��", "after"]


def test_the_code_of_a_pod_that_the_deadline_ended_is_not_the_jobs(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(api: Api) -> None:
        api.end_pod(143)
        api.end_job("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    assert follow(api, run_pod, fail) == 11
    assert "DeadlineExceeded: Job was active longer than specified deadline" in capsys.readouterr().err
