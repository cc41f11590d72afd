"""`logs --follow` exits with the code of the trainer that failed the Job."""

from __future__ import annotations

import pytest

from tests.trainer.fake_api_server import (
    JOB,
    POD,
    RUNNING,
    FakeApiServer,
    exhaust_retries,
    nothing,
    run_pod,
    stream_log,
)
from trainer.errors import DataError


def test_the_exit_code_is_that_of_the_trainer(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(api: FakeApiServer) -> None:
        api.end_pod(3)
        api.end_job(
            "Failed", "PodFailurePolicy", "Container trainer failed with exit code 3 matching FailJob"
        )

    assert stream_log(api, run_pod, fail) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m trainer logs: ")
    assert DataError.__doc__ is not None
    for part in (JOB, "code 3", DataError.__doc__.partition("\n")[0].rstrip(".")):
        assert part in last


def test_after_the_last_retry_the_exit_code_is_that_of_the_last_pod(api: FakeApiServer) -> None:
    def fail(api: FakeApiServer) -> None:
        api.end_pod(137)
        exhaust_retries(api)

    assert stream_log(api, run_pod, fail) == 137


def test_a_job_past_its_deadline_is_an_error_of_the_cluster(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(api: FakeApiServer) -> None:
        api.end_job("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    assert stream_log(api, nothing, fail) == 11
    assert "DeadlineExceeded: Job was active longer" in capsys.readouterr().err


@pytest.mark.parametrize("ignored", [9, 143])
def test_a_code_that_the_job_ignores_is_not_its_outcome(api: FakeApiServer, ignored: int) -> None:
    def fail(api: FakeApiServer) -> None:
        api.end_pod(7)
        api.add_pod(RUNNING, f"{JOB}-later")
        api.end_pod(ignored, f"{JOB}-later")
        terminated = api.pods[f"{JOB}-later"]["status"]["containerStatuses"][0]["state"]["terminated"]
        terminated["finishedAt"] = "2026-01-01T00:02:00Z"
        exhaust_retries(api)

    assert stream_log(api, run_pod, fail) == 7


def test_code_1_is_reported_as_a_bug(api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(api: FakeApiServer) -> None:
        api.end_pod(1)
        exhaust_retries(api)

    assert stream_log(api, run_pod, fail) == 1
    assert "traceback" in capsys.readouterr().err.splitlines()[-1]


def test_a_pod_on_a_lost_node_does_not_delay_the_end(api: FakeApiServer) -> None:
    """Its container counts as running for ever, because the kubelet on the node is gone."""

    def lose(api: FakeApiServer) -> None:
        api.pods[POD]["status"]["phase"] = "Failed"
        api.refuse_logs = 500

    def end(api: FakeApiServer) -> None:
        exhaust_retries(api)

    def give_up(api: FakeApiServer) -> None:  # instead of streaming for ever
        api.refuse = 410

    # No pod has an exit code, so the Job's condition is the only reason.
    assert stream_log(api, run_pod, lose, end, nothing, nothing, nothing, nothing, give_up) == 11
    assert api.refuse is None


def test_a_container_without_an_end_time_has_an_exit_code(api: FakeApiServer) -> None:
    def fail(api: FakeApiServer) -> None:
        for name in (POD, f"{JOB}-later"):
            api.add_pod(RUNNING, name)
            api.end_pod(137, name)
        del api.pods[POD]["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
        exhaust_retries(api)

    assert stream_log(api, fail) == 137


def test_the_exit_code_of_a_pod_that_the_deadline_ended_does_not_count(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(api: FakeApiServer) -> None:
        api.end_pod(143)
        api.end_job("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    assert stream_log(api, run_pod, fail) == 11
    assert "DeadlineExceeded: Job was active longer than specified deadline" in capsys.readouterr().err
