import json
import threading
from pathlib import Path

import pytest

from trainer import __main__ as cli
from trainer.cluster import model_config
from trainer.cluster.config_store import ConfigFile

CONFIG = """model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow"
  model_version_policy { all {} } version_labels { key: "stable" value: 1 } } }
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three published versions, of which version 2 has no model card, and a model config."""
    for number in (1, 2, 10):
        extra = tmp_path / "m" / str(number) / "assets.extra"
        extra.mkdir(parents=True)
        (extra.parent / "saved_model.pb").touch()
        card = {"created": f"2026-01-{number:02}", "metrics": {"validation": {"accuracy": number / 10}}}
        if number != 2:
            (extra / "model_card.json").write_text(json.dumps(card))
    (tmp_path / "m" / ".staging-11").mkdir()
    (tmp_path / "models.config").write_text(CONFIG)
    return tmp_path


def run(directory: Path, *arguments: str) -> int:
    flags = ["--name", "m", "--model-config", str(directory / "models.config")]
    return cli.main([*arguments, *flags])


def assert_printed(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    (line,) = capsys.readouterr().out.splitlines()
    for part in parts:
        assert part in line


def test_versions_lists_the_newest_first_with_accuracy_and_labels(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "versions", "--model-dir", str(directory), "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"number": 10, "created": "2026-01-10", "accuracy": 1.0, "labels": []},
        {"number": 2, "created": "", "accuracy": None, "labels": []},
        {"number": 1, "created": "2026-01-01", "accuracy": 0.1, "labels": ["stable"]},
    ]
    assert run(directory, "versions", "--model-dir", str(directory)) == 0
    assert "1.0000" in capsys.readouterr().out


def test_promote_and_rollback_edit_the_file_and_print_the_version(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = directory / "models.config"
    assert run(directory, "promote", "10", "--model-dir", str(directory)) == 0
    assert_printed(capsys, "stable", "10", str(config))
    assert run(directory, "promote", "2", "--label", "canary") == 0
    assert model_config.labels(config.read_text(), "m", config) == {
        "stable": 10,
        "stable-previous": 1,
        "canary": 2,
    }
    capsys.readouterr()
    assert run(directory, "rollback") == 0
    assert_printed(capsys, "stable", "version 1 ", str(config))


def test_a_missing_version_is_not_promoted(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(directory, "promote", "7", "--model-dir", str(directory)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("7", str(directory / "m"), "10, 2, 1"):
        assert part in line
    assert (directory / "models.config").read_text() == CONFIG


def test_a_missing_file_and_a_missing_directory_are_one_line(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["rollback", "--name", "m", "--model-config", str(directory / "none")]) == 2
    assert cli.main(["versions", "--name", "n", "--model-dir", str(directory)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert f"{directory / 'none'}: No such file" in first
    assert f"{directory / 'n'}: No such file" in second


def test_none_of_many_simultaneous_edits_is_lost(directory: Path) -> None:
    store = ConfigFile(directory / "models.config")

    def add(label: str) -> None:
        store.edit(lambda text: model_config.promote(text, "m", label, 1, store))

    threads = [threading.Thread(target=add, args=(f"label-{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model_config.labels(store.read(), "m", store)) == 21
