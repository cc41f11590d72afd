"""`push-data` against a fake API server whose exec endpoint runs the receiver."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes_objects import BASE, name_of
from tests.policy import violations
from tests.trainer.fake_exec_server import FakeExecServer, container_status
from trainer import __main__ as cli
from trainer import receiving
from trainer.cluster import job_manifest, pushing, receiver_pod
from trainer.cluster.receiver_pod import ReceiverPod

ROOT = Path(__file__).parents[3]


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    directory = tmp_path / "claim"
    directory.mkdir()
    return directory


@pytest.fixture
def api(tmp_path: Path, claim: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExecServer]:
    server = FakeExecServer(claim)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(receiver_pod, "POLL_S", 0.01)
    yield server
    server.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """7 files of 300,000 random bytes and 2 hidden ones. One path is too long for a plain tar header."""
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


def has_arrived(images: Path, claim: Path) -> bool:
    names = [name for name, _ in receiving.files_of(images)]
    same, different, errors = filecmp.cmpfiles(images, claim, names, shallow=False)
    assert not list(claim.rglob("*.partial"))
    return len(same) == 7 and not different and not errors


def figures(capsys: pytest.CaptureFixture[str]) -> list[float]:
    """Return the numbers that push-data printed: files, skipped files, MB sent."""
    _, _, summary = capsys.readouterr().out.partition("namespace ml: ")
    return [float(number) for number in re.findall(r"[0-9.]+", summary)]


def test_a_second_push_sends_nothing(
    api: FakeExecServer, images: Path, claim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push-data", str(images)]) == 0
    assert has_arrived(images, claim)
    assert not list(claim.rglob(".*"))
    assert figures(capsys) == [7, 0, 2.1]
    sent = api.received_bytes
    assert cli.main(["push-data", str(images)]) == 0
    assert figures(capsys) == [7, 7, 0.0]
    assert api.received_bytes == sent
    assert len(api.deleted) == 2 and api.pods == {}


def test_missing_and_damaged_files_are_sent_and_none_is_removed(
    api: FakeExecServer, images: Path, claim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push-data", str(images)]) == 0
    (claim / "train/a/1.jpg").unlink()
    (claim / "train/a/2.jpg").write_bytes(b"half")
    (claim / "train/b/3.jpg").write_bytes(os.urandom(300_000))
    (claim / "of another user").write_text("stays")
    capsys.readouterr()
    assert cli.main(["push-data", str(images)]) == 0
    assert has_arrived(images, claim)
    assert figures(capsys) == [7, 4, 0.9]
    assert (claim / "of another user").read_text() == "stays"


def test_a_shard_whose_connection_breaks_is_sent_again(
    api: FakeExecServer, images: Path, claim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "SHARD_BYTES", 500_000)
    monkeypatch.setattr(receiver_pod, "CHUNK_BYTES", 65_536)
    api.cuts = [300_000]
    assert cli.main(["push-data", str(images)]) == 0
    assert has_arrived(images, claim)
    takes = [command for command in api.commands if "take" in command]
    assert len(takes) == 5  # 4 shards of 2 files, one of them twice


def test_a_connection_that_is_not_made_is_tried_again(api: FakeExecServer, images: Path, claim: Path) -> None:
    api.refuse = [0, 0]
    assert cli.main(["push-data", str(images)]) == 0
    assert has_arrived(images, claim)


def test_a_user_who_may_not_run_commands_in_pods_is_told_which_right_to_ask_for(
    api: FakeExecServer, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse = [403]
    assert cli.main(["push-data", str(images)]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("pods/exec", "namespace ml", "403 Forbidden", "k8s/accounts.yaml"):
        assert part in line
    assert api.pods == {}


def test_a_cluster_that_fails_during_the_push_is_one_line(
    api: FakeExecServer, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ReceiverPod.run

    def gone(pod: ReceiverPod, *arguments: Any) -> str:
        answer = run(pod, *arguments)
        api.close()
        monkeypatch.setattr(ReceiverPod, "run", run)
        return answer

    monkeypatch.setattr(ReceiverPod, "run", gone)
    assert cli.main(["push-data", str(images)]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "push-data-" in line  # the pod


def test_a_push_whose_connection_keeps_breaking_can_be_resumed(
    api: FakeExecServer,
    images: Path,
    claim: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pushing, "SHARD_BYTES", 500_000)
    monkeypatch.setattr(receiver_pod, "CHUNK_BYTES", 65_536)
    api.cuts = [10**9, 100_000, 100_000, 100_000]
    assert cli.main(["push-data", str(images)]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert "push-data-" in line  # the pod
    assert api.pods == {}
    assert cli.main(["push-data", str(images)]) == 0
    assert figures(capsys)[:2] == [7, 2]
    assert has_arrived(images, claim)


def test_an_error_of_the_volume_names_the_claim(
    api: FakeExecServer, images: Path, claim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (claim / "train").write_text("a file where a folder must be")
    assert cli.main(["push-data", str(images)]) == 8
    (line,) = capsys.readouterr().err.splitlines()
    assert "Claim data" in line
    assert api.pods == {}


@pytest.mark.parametrize(
    ("status", "events", "parts"),
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
            ['persistentvolumeclaim "data" not found', "kubectl get pvc"],
            id="claim",
        ),
        pytest.param(
            {
                "phase": "Pending",
                "containerStatuses": [
                    container_status({"waiting": {"reason": "ErrImagePull", "message": "denied"}})
                ],
            },
            [],
            ["example.com/train:1", "ErrImagePull", "denied"],
            id="image",
        ),
        pytest.param({"phase": "Pending"}, ["volume is lost"], ["volume is lost"], id="mount"),
        pytest.param({"phase": "Pending"}, [], ["Received: Pending"], id="no reason"),
    ],
)
def test_a_pod_that_does_not_start_in_time_is_one_line(
    api: FakeExecServer,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    status: dict[str, Any],
    events: list[str],
    parts: list[str],
) -> None:
    api.status, api.events = status, events
    assert cli.main(["push-data", str(images), "--timeout-s", "0.1"]) == 11
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("0.1 s", *parts):
        assert part in line
    assert api.pods == {}


def test_the_pod_is_deleted_when_the_user_interrupts(
    api: FakeExecServer, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ReceiverPod, "run", interrupt)
    assert cli.main(["push-data", str(images)]) == 130
    assert api.pods == {}


def test_the_pod_follows_the_policy_and_mounts_the_claim(api: FakeExecServer, images: Path) -> None:
    assert cli.main(["push-data", str(images), "--claim", "mine"]) == 0
    (pod,) = api.created
    assert list(violations(pod)) == []
    names = set(map(name_of, BASE))
    assert f"ServiceAccount/{pod['spec']['serviceAccountName']}" in names
    assert "PersistentVolumeClaim/data" in names  # the claim of a push without --claim
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_the_pod_has_the_image_and_the_namespace_of_the_overlays_job(
    api: FakeExecServer, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert "namespace ml" in capsys.readouterr().out
    (pod,) = api.created
    assert pod["spec"]["containers"][0]["image"] == "registry.example.com/train:2"


def test_a_folder_without_files_is_refused_before_a_pod_is_made(
    api: FakeExecServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for directory in ("empty", "nowhere"):
        assert cli.main(["push-data", str(tmp_path / directory)]) == 3
        assert str(tmp_path / directory) in capsys.readouterr().err
    assert api.created == []
