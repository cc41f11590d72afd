"""`logs --follow` says once what a Job waits for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.fake_api_server import (
    JOB,
    POD,
    RUNNING,
    FakeApiServer,
    complete,
    exhaust_retries,
    nothing,
    run_pod,
    stream_log,
)

NO_NODE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


@pytest.mark.parametrize(
    ("scene", "parts"),
    [
        pytest.param(
            lambda api: api.add_pod(conditions=[NO_NODE]),
            [POD, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."],
            id="unschedulable",
        ),
        pytest.param(
            lambda api: api.add_pod({"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
            ["image example.com/train:1", "ErrImagePull", "not found"],
            id="image",
        ),
        pytest.param(
            lambda api: api.add_pod(init={"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}),
            ["image example.com/train:1", "ImagePullBackOff", "denied"],
            id="image of an init container",
        ),
        pytest.param(
            lambda api: api.add_pod(
                {"waiting": {"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'}}
            ),
            ["container trainer", "CreateContainerConfigError", 'configmap "x" not found'],
            id="config",
        ),
        pytest.param(
            lambda api: api.add_pod(init={"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
            [POD, "fetch-data"],
            id="init container",
        ),
        pytest.param(
            lambda api: (api.add_pod(), api.add_event(POD, "FailedMount", 'claim "models" is lost')),
            [POD, "FailedMount", 'claim "models" is lost'],
            id="volume",
        ),
        pytest.param(
            lambda api: api.add_event(JOB, "FailedCreate", "exceeded quota: gpus"),
            [JOB, "FailedCreate", "exceeded quota: gpus"],
            id="quota",
        ),
        pytest.param(
            lambda api: api.jobs[JOB]["spec"].update(suspend=True),
            [JOB, "suspended"],
            id="suspended",
        ),
    ],
)
def test_what_a_job_waits_for_is_reported_once(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], scene: Any, parts: list[str]
) -> None:
    def then(api: FakeApiServer) -> None:
        api.jobs[JOB]["spec"]["suspend"] = False
        api.add_pod(RUNNING)

    assert stream_log(api, scene, nothing, nothing, then, complete) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if all(part in line for part in parts)]
    assert len(lines) == 1


def test_a_quota_that_refuses_every_attempt_is_reported_once(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(tail: str) -> Any:
        message = f'Error creating: pods "{JOB}-{tail}" is forbidden: exceeded quota: gpus, limited: 0'
        return lambda api: api.add_event(JOB, "FailedCreate", message)

    assert stream_log(api, refuse("x7k2p"), refuse("9qwzt"), refuse("bbbbb"), run_pod, complete) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "FailedCreate" in line]
    assert "exceeded quota: gpus, limited: 0" in line


def test_a_pod_that_pod_security_refuses_is_reported(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f'Error creating: pods "{JOB}-x7k2p" is forbidden: violates PodSecurity "restricted:latest"'
    assert stream_log(api, lambda api: api.add_event(JOB, "FailedCreate", message), run_pod, complete) == 0
    assert 'violates PodSecurity "restricted:latest"' in capsys.readouterr().err


def test_a_missing_claim_is_not_reported_as_missing_nodes(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": '0/3 nodes are available: persistentvolumeclaim "data" not found.',
    }
    assert stream_log(api, lambda api: api.add_pod(conditions=[condition]), run_pod, complete) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "persistentvolumeclaim" in line]
    assert "claim" in line.partition("not found.")[2]
    assert "add nodes" not in line


def test_an_image_is_reported_once_though_the_reason_alternates(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def pull(reason: str, message: str) -> Any:
        return lambda api: api.add_pod({"waiting": {"reason": reason, "message": message}})

    assert (
        stream_log(
            api,
            pull("ErrImagePull", "manifest unknown"),
            pull("ImagePullBackOff", 'Back-off pulling image "example.com/train:1"'),
            pull("ErrImagePull", "manifest unknown: request 2"),
            run_pod,
            complete,
        )
        == 0
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "image" in line]
    assert "example.com/train:1" in line and "manifest unknown" in line


def test_an_init_container_that_fails_is_reported_with_the_command_that_shows_why(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(api: FakeApiServer) -> None:
        api.add_pod(init={"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:01:00Z"}})

    def give_up(api: FakeApiServer) -> None:
        exhaust_retries(api)

    assert stream_log(api, fail, nothing, give_up) == 11
    reported, last = capsys.readouterr().err.splitlines()
    assert "code 3" in reported
    assert f"kubectl logs {POD} --container fetch-data --namespace ml" in reported
    assert "BackoffLimitExceeded" in last
