"""Folders of manifests without exactly one training Job are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainer.cluster import job_manifest
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "received"),
    [
        pytest.param("kind: Job\n  x: [", "line 2, column 4", id="not YAML"),
        pytest.param("- 1\n- 2", "Received: 0", id="a list"),
        pytest.param("kind: Job", "Received: 0", id="no metadata"),
        pytest.param("kind: Job\nmetadata:\n  labels:\n", "Received: 0", id="no labels"),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused(tmp_path: Path, text: str, received: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        job_manifest.load_job(tmp_path)
    assert str(tmp_path) in str(refused.value) and received in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_training_jobs_are_refused(tmp_path: Path) -> None:
    text = (ROOT / "k8s" / "training.yaml").read_text()
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="Received: 2"):
        job_manifest.load_job(tmp_path)


def test_a_job_without_the_trainers_container_is_refused() -> None:
    manifest = yaml.safe_load((ROOT / "k8s" / "training.yaml").read_text())
    manifest["spec"]["template"]["spec"]["containers"][0]["name"] = "other"
    with pytest.raises(ConfigError, match=r"trainer.* Received: other"):
        job_manifest.job_for_run(manifest, {}, None)


def test_the_job_of_a_run_leaves_the_manifest_unchanged() -> None:
    manifest = job_manifest.load_job(ROOT / "k8s")
    before = yaml.safe_dump(manifest)
    job_manifest.job_for_run(manifest, {"epochs": 2}, None)
    assert yaml.safe_dump(manifest) == before
