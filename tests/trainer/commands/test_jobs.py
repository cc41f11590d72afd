"""The launcher against a real HTTP server that speaks the Kubernetes API; kubectl renders the overlays."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from urllib3.exceptions import HTTPError

from tests.trainer.kubernetes_api import JOB, POD, RUNNING, Api
from trainer import __main__ as cli
from trainer.cluster import log_stream
from trainer.cluster.jobs import TrainingJobs
from trainer.errors import ClusterError

ROOT = Path(__file__).parents[3]
NO_NODE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    server = Api()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(log_stream, "POLL_S", 0.01)
    monkeypatch.chdir(ROOT)
    yield server
    server.shutdown()
    server.server_close()


def submitted(api: Api) -> dict[str, Any]:
    (job,) = api.jobs.values()
    return job


def container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_submit_makes_a_job_of_its_own_name_from_the_manifest(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["submit"]) == 0
    assert cli.main(["submit"]) == 0
    assert len(api.jobs) == 2
    manifest = yaml.safe_load((ROOT / "k8s" / "training.yaml").read_text())
    for name, job in api.jobs.items():
        assert name.startswith("train-classifier-") and len(name) < 50
        assert job["spec"] == manifest["spec"]
        assert job["metadata"]["labels"] == manifest["metadata"]["labels"]
    printed = capsys.readouterr()
    assert printed.out.split() == list(api.jobs)
    assert f"python -m trainer logs {next(iter(api.jobs))} --namespace ml --follow" in printed.err


def test_settings_are_flags_that_win(api: Api) -> None:
    flags = ["--set", "epochs=20", "--set", "learning-rate=0.5", "--set", "must_beat_serving=false"]
    assert cli.main(["submit", *flags]) == 0
    args = container(submitted(api))["args"]
    assert args[-3:] == ["--epochs=20", "--learning-rate=0.5", "--no-must-beat-serving"]
    parsed = cli.build_parser().parse_args(args)
    assert (parsed.epochs, parsed.learning_rate, parsed.must_beat_serving) == (20, 0.5, False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "epoch=2"], "unknown key 'epoch'. Did you mean 'epochs'?"),
        (["--set", "epochs"], "must be KEY=VALUE"),
        (["--set", "epochs=many"], "epochs must be of type int. Received: 'many'."),
        (["--set", "epochs=0"], "--epochs must be a whole number of at least 1. Received: 0."),
        (["--set", "xla=yes"], "xla must be true or false. Received: 'yes'."),
        (["--set", "resize_filter=cubic"], "--resize-filter must be one of bilinear, nearest"),
        (["--workers", "2"], "--workers needs an Indexed Job"),
        (["--overlay", "nowhere"], "--overlay must be a directory with manifests"),
        (["--overlay", "docs"], "must have one Job with the label app.kubernetes.io/component: training"),
    ],
)
def test_what_cannot_be_submitted_is_refused_before_anything_is_sent(
    api: Api, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert cli.main(["submit", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert api.jobs == {}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_workers_are_as_many_as_asked_for(api: Api) -> None:
    assert cli.main(["submit", "--overlay", "overlays/multi-node", "--workers", "4"]) == 0
    job = submitted(api)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    env = {entry["name"]: entry.get("value") for entry in container(job)["env"]}
    assert env["WORKERS"] == "4"
    assert env["WORKER_SERVICE"] == "train-classifier-workers"


def test_without_kubectl_the_base_is_read_and_an_overlay_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["submit"]) == 0
    capsys.readouterr()
    assert cli.main(["submit", "--overlay", "overlays/kueue"]) == 2
    assert "rendered with kubectl, which is not installed" in capsys.readouterr().err


def follow(api: Api, *scenes: Any) -> int:
    api.add_job()
    # `logs` looks for the Job once, before it follows.
    api.scenes = [lambda api: None, *scenes]
    return cli.main(["logs", JOB, "--follow"])


def complete(api: Api) -> None:
    api.end_pod(0)
    api.end_job("Complete")


def test_the_log_is_printed_once_though_its_stream_is_cut(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"epoch {number}/20  ∑" for number in range(20)]
    api.logs[POD] = lines
    api.cut_logs_after = 7
    assert follow(api, lambda api: api.add_pod(RUNNING), lambda api: None, complete) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == lines
    assert printed.err.splitlines() == [f"Pod {POD} runs on node node-1.", f"Job {JOB} is complete."]


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        pytest.param(
            lambda api: api.add_pod(conditions=[NO_NODE]),
            "finds no node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu. It waits until",
            id="unschedulable",
        ),
        pytest.param(
            lambda api: api.add_pod({"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
            "the image example.com/train:1 cannot be pulled (ErrImagePull: not found)",
            id="image",
        ),
        pytest.param(
            lambda api: api.add_pod(init={"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}),
            "the image example.com/train:1 cannot be pulled (ImagePullBackOff: denied)",
            id="image of an init container",
        ),
        pytest.param(
            lambda api: api.add_pod(
                {"waiting": {"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'}}
            ),
            'container trainer cannot start (CreateContainerConfigError: configmap "x" not found)',
            id="config",
        ),
        pytest.param(
            lambda api: api.add_pod(init={"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
            "runs fetch-data first",
            id="init container",
        ),
        pytest.param(
            lambda api: (api.add_pod(), api.add_event(POD, "FailedMount", 'claim "models" is lost')),
            'FailedMount: claim "models" is lost',
            id="volume",
        ),
        pytest.param(
            lambda api: api.add_event(JOB, "FailedCreate", "exceeded quota: gpus"),
            f"{JOB}: FailedCreate: exceeded quota: gpus",
            id="quota",
        ),
        pytest.param(
            lambda api: api.jobs[JOB]["spec"].update(suspend=True),
            "is suspended: it waits for its queue",
            id="suspended",
        ),
    ],
)
def test_what_a_job_waits_for_is_said_once_in_words(
    api: Api, capsys: pytest.CaptureFixture[str], scene: Any, message: str
) -> None:
    def then(api: Api) -> None:
        api.jobs[JOB]["spec"]["suspend"] = False
        api.add_pod(RUNNING)

    assert follow(api, scene, lambda api: None, lambda api: None, then, complete) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if message in line]
    assert len(lines) == 1


def test_the_exit_code_is_the_trainers(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(api: Api) -> None:
        api.end_pod(3)
        api.end_job(
            "Failed", "PodFailurePolicy", "Container trainer failed with exit code 3 matching FailJob"
        )

    assert follow(api, lambda api: api.add_pod(RUNNING), fail) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"python -m trainer logs: Job {JOB} failed: the trainer ended with code 3 (")
    assert last.endswith("(The image folders or a picture in them cannot be used).")


def test_when_all_tries_are_used_up_the_last_code_counts(api: Api) -> None:
    def fail(api: Api) -> None:
        api.end_pod(137)
        api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    assert follow(api, lambda api: api.add_pod(RUNNING), fail) == 137


def test_a_job_that_took_too_long_is_the_clusters_code(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(api: Api) -> None:
        api.end_job("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    assert follow(api, lambda api: None, fail) == 11
    assert "DeadlineExceeded: Job was active longer" in capsys.readouterr().err


def test_the_pod_that_takes_anothers_place_is_followed(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    second = f"{JOB}-fghij"
    api.logs = {POD: ["epoch 1"], second: ["goes on", "epoch 2"]}

    def evict(api: Api) -> None:
        api.end_pod(143)

    def replace(api: Api) -> None:
        api.add_pod(RUNNING, second)

    def end(api: Api) -> None:
        api.end_pod(0, second)
        api.end_job("Complete")

    assert follow(api, lambda api: api.add_pod(RUNNING), evict, lambda api: None, replace, end) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["epoch 1", "goes on", "epoch 2"]
    assert f"Pod {POD} ended with code 143" in printed.err


def test_a_pod_that_is_deleted_is_followed_by_the_next(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    second = f"{JOB}-fghij"
    api.logs = {POD: ["epoch 1"], second: ["epoch 2"]}

    def replace(api: Api) -> None:
        del api.pods[POD]
        api.add_pod(RUNNING, second)

    def end(api: Api) -> None:
        api.end_pod(0, second)
        api.end_job("Complete")

    assert follow(api, lambda api: api.add_pod(RUNNING), replace, lambda api: None, end) == 0
    assert capsys.readouterr().out.splitlines() == ["epoch 1", "epoch 2"]


def test_of_several_workers_the_chiefs_log_is_printed(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.logs = {f"{JOB}-0-a": ["the chief"], f"{JOB}-1-b": ["a worker"]}

    def start(api: Api) -> None:
        api.add_pod(RUNNING, f"{JOB}-1-b", worker=1)
        api.add_pod(RUNNING, f"{JOB}-0-a", worker=0)

    def end(api: Api) -> None:
        for name in (f"{JOB}-0-a", f"{JOB}-1-b"):
            api.end_pod(0, name)
        api.end_job("Complete")

    assert follow(api, start, end) == 0
    assert capsys.readouterr().out.splitlines() == ["the chief"]


def test_ctrl_c_leaves_the_job(api: Api, tmp_path: Path) -> None:
    api.add_job()
    command = [sys.executable, "-m", "trainer", "logs", JOB, "--follow"]

    def listen() -> None:
        """What a shell starts in the background ignores SIGINT; so would the tests' children."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as process:
        deadline = time.monotonic() + 60
        seen: list[bool] = []
        api.scenes = [lambda api: seen.append(True)] * 3
        while len(seen) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"Job {JOB} goes on." in said
    assert f"python -m trainer cancel {JOB} --namespace ml" in said
    assert JOB in api.jobs and api.deleted == []


def test_jobs_lists_what_there_is(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_logs_prints_what_there_is(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.add_job()
    assert cli.main(["logs", JOB]) == 0
    assert "has no pod yet" in capsys.readouterr().err
    api.add_pod(RUNNING)
    api.logs[POD] = ["one", "two"]
    assert cli.main(["logs", JOB]) == 0
    assert capsys.readouterr().out.splitlines() == ["one", "two"]


def test_cancel_deletes_the_job_and_its_pods(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.add_job()
    assert cli.main(["cancel", JOB]) == 0
    ((name, how),) = api.deleted
    assert name == JOB and "Foreground" in how
    for command in ("cancel", "logs"):
        assert cli.main([command, JOB]) == 11
    assert f"There is no training Job {JOB} in namespace ml. Those that there are: none." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("command", [["submit"], ["jobs"], ["logs", JOB], ["cancel", JOB]])
def test_a_refusal_is_one_line(api: Api, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    api.refuse = 403
    assert cli.main(command) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "403" in line and "k8s/accounts.yaml" in line


def test_a_quota_that_refuses_the_job_is_named(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.refuse, api.refusal = 403, "exceeded quota: jobs, used: 2, limited: 2"
    assert cli.main(["submit"]) == 11
    assert "403 Forbidden: exceeded quota: jobs, used: 2, limited: 2." in capsys.readouterr().err


def test_a_cluster_that_pauses_is_waited_for(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(jobs: TrainingJobs, name: str) -> list[Any]:
        monkeypatch.setattr(TrainingJobs, "pods", pods)
        raise ClusterError("The cluster does not answer: x.") from HTTPError()

    pods = TrainingJobs.pods
    monkeypatch.setattr(TrainingJobs, "pods", pause)
    assert follow(api, lambda api: None, lambda api: api.add_pod(RUNNING), complete) == 0
    assert "The cluster does not answer: x. Trying again." in capsys.readouterr().err


def test_a_cluster_that_pauses_when_a_log_breaks_is_waited_for(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
    assert follow(api, lambda api: api.add_pod(RUNNING), lambda api: None, complete) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["one", "two"]
    assert "The cluster does not answer: x. Trying again." in printed.err


def test_a_cluster_that_does_not_answer_is_one_line(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.shutdown()
    api.server_close()
    assert cli.main(["jobs"]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"python -m trainer jobs: The cluster at localhost:{api.server_port} does not answer: Failed to "
        "establish a new connection: [Errno 111] Connection refused. Check kubectl cluster-info."
    )
