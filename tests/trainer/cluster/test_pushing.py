"""`push-data` against a real HTTP server whose exec really runs the receiver, over the real channels."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.policy import violations
from tests.trainer.exec_api import ExecApi, container
from trainer import __main__ as cli
from trainer import receiving
from trainer.cluster import job_manifest, pushing

ROOT = Path(__file__).parents[3]


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    directory = tmp_path / "claim"
    directory.mkdir()
    return directory


@pytest.fixture
def api(tmp_path: Path, claim: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExecApi]:
    server = ExecApi(claim)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(pushing, "POLL_S", 0.01)
    yield server
    server.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """7 files of 300,000 random bytes, one of them with a name that tar's own header cannot hold."""
    directory = tmp_path / "images"
    for name in ("train/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg", "train/b/4.jpg", "validation/a/5.jpg"):
        write(directory / name)
    write(directory / "validation" / "b" / "é ü 6.jpg")
    write(directory / "validation" / "b" / ("x" * 180) / "7.jpg")
    write(directory / ".cache" / "hidden")
    write(directory / "train" / ".DS_Store")
    return directory


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(300_000))


def is_there(images: Path, claim: Path) -> bool:
    names = [name for name, _ in receiving.files_of(images)]
    same, different, errors = filecmp.cmpfiles(images, claim, names, shallow=False)
    assert not list(claim.rglob("*.partial"))
    return len(same) == 7 and not different and not errors


def test_everything_is_sent_and_a_second_time_nothing(
    api: ExecApi, images: Path, claim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push-data", str(images)]) == 0
    assert is_there(images, claim)
    assert not list(claim.rglob(".*"))
    assert "7 files, of which 0 were there; 2.1 MB sent" in capsys.readouterr().out
    sent = api.received_bytes
    assert cli.main(["push-data", str(images)]) == 0
    assert "7 files, of which 7 were there; 0.0 MB sent" in capsys.readouterr().out
    assert api.received_bytes == sent
    assert len(api.deleted) == 2 and api.pods == {}


def test_only_what_is_missing_or_damaged_is_sent_and_nothing_is_removed(
    api: ExecApi, images: Path, claim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push-data", str(images)]) == 0
    (claim / "train/a/1.jpg").unlink()
    (claim / "train/a/2.jpg").write_bytes(b"half")
    (claim / "train/b/3.jpg").write_bytes(os.urandom(300_000))
    (claim / "of somebody else").write_text("stays")
    capsys.readouterr()
    assert cli.main(["push-data", str(images)]) == 0
    assert is_there(images, claim)
    assert "7 files, of which 4 were there; 0.9 MB sent" in capsys.readouterr().out
    assert (claim / "of somebody else").read_text() == "stays"


def test_a_connection_that_breaks_is_taken_up_again(
    api: ExecApi, images: Path, claim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "_SHARD_BYTES", 500_000)
    monkeypatch.setattr(pushing, "_CHUNK_BYTES", 65_536)
    api.cuts = [300_000]
    assert cli.main(["push-data", str(images)]) == 0
    assert is_there(images, claim)
    takes = [command for command in api.commands if "take" in command]
    assert len(takes) == 5  # 4 shards of 2 files, one of them twice


def test_a_connection_that_is_not_made_is_tried_again(api: ExecApi, images: Path, claim: Path) -> None:
    """For the question what is there, too."""
    api.refuse = [0, 0]
    assert cli.main(["push-data", str(images)]) == 0
    assert is_there(images, claim)


def test_who_may_not_run_commands_in_pods_is_told_which_right_it_takes(
    api: ExecApi, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse = [403]
    assert cli.main(["push-data", str(images)]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "python -m trainer push-data: The cluster must let this user run commands in Pods (pods/exec) in "
        "namespace ml. Received: Handshake status 403 Forbidden. Ask for that right (k8s/accounts.yaml has a "
        "Role)."
    )
    assert api.pods == {}


def test_a_cluster_that_goes_away_meanwhile_is_one_line(
    api: ExecApi, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pushing._Pod.run

    def gone(pod: pushing._Pod, *arguments: Any) -> str:
        answer = run(pod, *arguments)
        api.close()
        monkeypatch.setattr(pushing._Pod, "run", run)
        return answer

    monkeypatch.setattr(pushing._Pod, "run", gone)
    assert cli.main(["push-data", str(images)]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "keeps breaking" in line and "run the same command again" in line


def test_one_that_keeps_breaking_is_an_error_and_the_next_time_goes_on(
    api: ExecApi,
    images: Path,
    claim: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pushing, "_SHARD_BYTES", 500_000)
    monkeypatch.setattr(pushing, "_CHUNK_BYTES", 65_536)
    api.cuts = [10**9, 100_000, 100_000, 100_000]
    assert cli.main(["push-data", str(images)]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "keeps breaking" in line and "run the same command again" in line
    assert api.pods == {}
    assert cli.main(["push-data", str(images)]) == 0
    assert "of which 2 were there" in capsys.readouterr().out
    assert is_there(images, claim)


def test_a_volume_that_is_full_says_so(
    api: ExecApi, images: Path, claim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (claim / "train").write_text("a file where a folder must be")
    assert cli.main(["push-data", str(images)]) == 8
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m trainer push-data: Claim data: ")
    assert api.pods == {}


@pytest.mark.parametrize(
    ("status", "events", "message"),
    [
        pytest.param(
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": 'persistentvolumeclaim "data" not found',
                    }
                ],
            },
            [],
            'finds no node: persistentvolumeclaim "data" not found',
            id="claim",
        ),
        pytest.param(
            {
                "phase": "Pending",
                "containerStatuses": [
                    container({"waiting": {"reason": "ErrImagePull", "message": "denied"}})
                ],
            },
            [],
            "the image example.com/train:1 cannot be pulled (ErrImagePull: denied)",
            id="image",
        ),
        pytest.param({"phase": "Pending"}, ["volume is lost"], "volume is lost", id="mount"),
        pytest.param({"phase": "Pending"}, [], "Received: Pending", id="no reason"),
    ],
)
def test_a_pod_that_does_not_run_is_one_line(
    api: ExecApi,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    status: dict[str, Any],
    events: list[str],
    message: str,
) -> None:
    api.status, api.events = status, events
    assert cli.main(["push-data", str(images), "--timeout-s", "0.1"]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "must run within 0.1 s" in line and message in line
    assert api.pods == {}


def test_the_pod_goes_when_the_user_interrupts(
    api: ExecApi, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pushing, "_with_tries", interrupt)
    assert cli.main(["push-data", str(images)]) == 130
    assert api.pods == {}


def test_the_pod_holds_to_the_policy(api: ExecApi, images: Path) -> None:
    assert cli.main(["push-data", str(images), "--claim", "mine"]) == 0
    (pod,) = api.created
    assert list(violations(pod)) == []
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_the_pod_has_the_image_and_the_namespace_of_the_overlays_job(
    api: ExecApi, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_manifest.load_job(ROOT / "k8s")
    job["metadata"]["namespace"] = "ml"
    job_manifest.trainer_container(job)["image"] = "registry.example.com/train:2"
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "job.yaml").write_text(yaml.safe_dump(job))
    kubeconfig = Path(os.environ["KUBECONFIG"])
    kubeconfig.write_text(kubeconfig.read_text().replace('"namespace": "ml"', '"namespace": "elsewhere"'))
    assert cli.main(["push-data", str(images), "--overlay", str(overlay)]) == 0
    assert "in namespace ml: 7 files" in capsys.readouterr().out
    (pod,) = api.created
    assert pod["spec"]["containers"][0]["image"] == "registry.example.com/train:2"


def test_a_folder_without_files_is_refused_before_a_pod_is_made(
    api: ExecApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for directory in ("empty", "nowhere"):
        assert cli.main(["push-data", str(tmp_path / directory)]) == 3
        assert str(tmp_path / directory) in capsys.readouterr().err
    assert api.created == []
