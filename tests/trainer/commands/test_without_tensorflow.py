"""The commands that only talk to a cluster, in processes where TensorFlow cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.trainer.missing_packages import HEAVY, environment_without

CLUSTER_COMMANDS = ("submit", "jobs", "logs", "cancel", "push-data", "versions", "promote", "rollback")
CONFIG = """model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow"
  model_version_policy { all {} } version_labels { key: "stable" value: 1 } } }
"""


def run(
    directory: Path, *arguments: object, missing: Collection[str] = HEAVY
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        env=environment_without(directory, missing),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_packages_are_really_missing(tmp_path: Path) -> None:
    for name in HEAVY:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env=environment_without(tmp_path, HEAVY),
            capture_output=True,
            text=True,
        )
        assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("command", CLUSTER_COMMANDS)
def test_help_needs_no_packages_of_the_extras(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, command, "--help", missing=(*HEAVY, "kubernetes", "rich", "yaml", "google"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m trainer {command}")


def test_versions_are_listed_and_labels_moved(tmp_path: Path) -> None:
    (tmp_path / "m" / "7").mkdir(parents=True)
    (tmp_path / "m" / "7" / "saved_model.pb").touch()
    file = tmp_path / "models.config"
    file.write_text(CONFIG)
    flags = ("--name", "m", "--model-config", file)
    model_dir = ("--model-dir", tmp_path)
    for command in (["promote", 7], ["rollback"], ["promote", 7], ["versions"]):
        done = run(tmp_path, *command, *flags, *model_dir)
        assert done.returncode == 0, done.stderr
    done = run(tmp_path, "versions", *flags, *model_dir, "--json")
    assert json.loads(done.stdout)["labels"] == ["stable"]


@pytest.mark.parametrize(
    "arguments", [["submit"], ["jobs"], ["logs", "x"], ["cancel", "x"], ["push-data", "docs"]]
)
def test_commands_that_connect_get_as_far_as_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (11, "")
    (line,) = done.stderr.splitlines()
    assert "KUBECONFIG" in line


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("jobs", "kubernetes", "cluster"),
        ("push-data docs", "yaml", "cluster"),
        ("versions --model-dir {models}", "rich", "cluster"),
        ("fetch-data file:///x.tar {models}/data", "fsspec", "fetch"),
        ("train --data x --model-dir {models}", "tensorflow", "train"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    tmp_path: Path, command: str, missing: str, extra: str
) -> None:
    (tmp_path / "classifier").mkdir()
    done = run(tmp_path, *command.format(models=tmp_path).split(), missing=[missing])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert missing in line and f"`{extra}`" in line
    assert f"pip install 'image-classifier-on-kubernetes[{extra}]'" in line
