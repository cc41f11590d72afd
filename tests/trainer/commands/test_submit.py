"""`submit` sends the Job of the manifests, with the settings of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes_objects import needs_kubectl, write_kustomization
from tests.trainer.fake_api_server import FakeApiServer
from trainer import __main__ as cli

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def submitted(api: FakeApiServer) -> dict[str, Any]:
    (job,) = api.jobs.values()
    return job


def trainer_container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_each_submit_creates_a_job_with_a_name_of_its_own(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
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


def test_settings_become_flags_after_those_of_the_manifest(api: FakeApiServer) -> None:
    flags = ["--set", "epochs=20", "--set", "learning-rate=0.5", "--set", "must_beat_serving=false"]
    assert cli.main(["submit", *flags]) == 0
    args = trainer_container(submitted(api))["args"]
    assert args[-3:] == ["--epochs=20", "--learning-rate=0.5", "--no-must-beat-serving"]
    parsed = cli.build_parser().parse_args(args)
    assert (parsed.epochs, parsed.learning_rate, parsed.must_beat_serving) == (20, 0.5, False)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--set", "epoch=2"], ["'epoch'", "'epochs'"]),
        (["--set", "epochs"], ["KEY=VALUE", "epochs"]),
        (["--set", "epochs=many"], ["epochs", "int", "'many'"]),
        (["--set", "epochs=0"], ["--epochs", "0"]),
        (["--set", "xla=yes"], ["xla", "'yes'"]),
        (["--set", "resize_filter=cubic"], ["--resize-filter", "bilinear, nearest", "cubic"]),
        (["--workers", "2"], ["--workers", "Indexed"]),
        (["--overlay", "nowhere"], ["--overlay", "nowhere"]),
        (["--overlay", "docs"], ["docs", "app.kubernetes.io/component: training", "0"]),
    ],
)
def test_invalid_flags_are_refused_before_anything_is_sent(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str], flags: list[str], parts: list[str]
) -> None:
    assert cli.main(["submit", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part in line
    assert api.jobs == {}


@needs_kubectl
def test_workers_sets_the_number_of_pods_and_tells_the_trainer(api: FakeApiServer, tmp_path: Path) -> None:
    write_kustomization(tmp_path / "mine", components=["multi-node"])
    assert cli.main(["submit", "--overlay", str(tmp_path / "mine"), "--workers", "4"]) == 0
    job = submitted(api)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    env = {entry["name"]: entry.get("value") for entry in trainer_container(job)["env"]}
    assert env["WORKERS"] == "4"
    assert env["WORKER_SERVICE"] == "train-classifier-workers"


def test_without_kubectl_the_base_can_be_submitted_and_an_overlay_cannot(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["submit"]) == 0
    capsys.readouterr()
    assert cli.main(["submit", "--overlay", "overlays/kind"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "kubectl" in line


def test_the_message_of_the_api_server_is_passed_on(
    api: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse, api.refusal = 403, "exceeded quota: jobs, used: 2, limited: 2"
    assert cli.main(["submit"]) == 11
    assert "403 Forbidden: exceeded quota: jobs, used: 2, limited: 2" in capsys.readouterr().err
