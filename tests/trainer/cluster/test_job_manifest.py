"""Manifests that nobody can make a Job of are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainer.cluster import job_manifest
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("kind: Job\n  x: [", "a manifest cannot be read", id="no YAML"),
        pytest.param("- 1\n- 2", "must have one Job .* Received: 0", id="a list"),
        pytest.param("kind: Job", "must have one Job .* Received: 0", id="no metadata"),
        pytest.param("kind: Job\nmetadata:\n  labels:\n", "must have one Job .* Received: 0", id="no labels"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        job_manifest.load_job(tmp_path)
    assert "\n" not in str(refused.value)


def test_two_training_jobs_are_one_too_many(tmp_path: Path) -> None:
    text = (ROOT / "k8s" / "training.yaml").read_text()
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="must have one Job .* Received: 2"):
        job_manifest.load_job(tmp_path)


def test_a_job_without_the_trainers_container_is_refused() -> None:
    manifest = yaml.safe_load((ROOT / "k8s" / "training.yaml").read_text())
    manifest["spec"]["template"]["spec"]["containers"][0]["name"] = "other"
    with pytest.raises(ConfigError, match="must have a container trainer. Received: other"):
        job_manifest.job_for_run(manifest, {}, None)


def test_the_manifest_that_was_read_is_left_as_it_is() -> None:
    manifest = job_manifest.load_job(ROOT / "k8s")
    before = yaml.safe_dump(manifest)
    job_manifest.job_for_run(manifest, {"epochs": 2}, None)
    assert yaml.safe_dump(manifest) == before
