"""Each refusal as a person meets it: one line on stderr, an exit code, and nothing lost."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import __main__ as cli


def train(*flags: object) -> list[str]:
    return ["train", *map(str, flags)]


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(argv)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def assert_one_line(err: str, *parts: str) -> None:
    assert err.count("\n") == 1, err
    assert err.startswith("python -m trainer ")
    for part in parts:
        assert part in err


@pytest.fixture
def tree(tmp_path: Path, image_tree: Path) -> Path:
    """A copy of the image set that a test may spoil."""
    return shutil.copytree(image_tree, tmp_path / "images")


@pytest.fixture
def good(tmp_path: Path, tree: Path, weights_file: Path) -> dict[str, Any]:
    return {
        "--data": tree,
        "--model-dir": tmp_path / "models",
        "--name": "tiny",
        "--backbone": "vgg16",
        "--weights": weights_file,
        "--image-size": 32,
        "--epochs": 1,
        "--cpu-replicas": 1,
    }


def flags(good: dict[str, Any], **changes: Any) -> list[str]:
    changed = {"--" + key.replace("_", "-"): value for key, value in changes.items()}
    return train(*(part for pair in {**good, **changed}.items() for part in pair))


def test_trains_publishes_and_says_where(good: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(flags(good), capsys)
    assert code == 0
    assert out.startswith(f"Published {good['--model-dir']}/tiny/1: validation accuracy ")
    assert out.count("\n") == 1


def test_settings_may_come_from_a_toml_file(
    good: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "run.toml"
    lines = [
        f"{flag[2:].replace('-', '_')} = {value if isinstance(value, int) else repr(str(value))}"
        for flag, value in good.items()
    ]
    toml.write_text("\n".join(lines))
    code, out, _ = run(train("--config", toml, "--name", "other"), capsys)
    assert code == 0
    assert "/models/other/1" in out


def spoil_nothing(tree: Path) -> None:
    pass


def empty_class(tree: Path) -> None:
    shutil.rmtree(tree / "train" / "sun")
    (tree / "train" / "sun").mkdir()


def one_class(tree: Path) -> None:
    for folder in list(tree.glob("*/*")):
        if folder.name != "sun":
            shutil.rmtree(folder)


def other_classes(tree: Path) -> None:
    (tree / "validation" / "sun").rename(tree / "validation" / "star")


def corrupt_image(tree: Path) -> None:
    (tree / "train" / "sun" / "003.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")


@pytest.mark.parametrize(
    ("spoil", "changes", "code", "parts"),
    [
        pytest.param(spoil_nothing, {"data": "/nowhere"}, 3, ["--data", "/nowhere"], id="missing folder"),
        pytest.param(empty_class, {}, 3, ["sun"], id="empty class"),
        pytest.param(one_class, {}, 3, ["at least two class folders. Received: sun"], id="one class only"),
        pytest.param(
            other_classes, {}, 3, ["only in train: sun; only in validation: star"], id="other classes"
        ),
        pytest.param(corrupt_image, {}, 3, ["train/sun/003.jpg"], id="corrupt image"),
        pytest.param(
            spoil_nothing, {"backbone": "xeption"}, 2, ["Did you mean xception?"], id="unknown backbone"
        ),
        pytest.param(spoil_nothing, {"image_size": 20}, 2, ["--image-size", "vgg16", "20"], id="size"),
        pytest.param(
            spoil_nothing,
            {"backbone": "mobilenetv2"},
            6,
            ["does not hold the weights of mobilenetv2"],
            id="weights of another backbone",
        ),
        pytest.param(
            spoil_nothing, {"weights": "w.h5"}, 6, ["--weights must be imagenet, none or"], id="weights"
        ),
        pytest.param(spoil_nothing, {"class_mode": "binary"}, 2, ["exactly two classes"], id="binary of six"),
        pytest.param(
            spoil_nothing, {"learning_rate": "nan"}, 2, ["--learning-rate must be a positive"], id="nan"
        ),
        pytest.param(spoil_nothing, {"cpu_replicas": 64}, 7, ["--cpu-replicas 64"], id="too many replicas"),
        pytest.param(spoil_nothing, {"config": "/nowhere.toml"}, 2, ["/nowhere.toml"], id="no TOML file"),
    ],
)
def test_bad_input_is_one_line_and_publishes_nothing(
    good: dict[str, Any],
    tree: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    changes: dict[str, Any],
    code: int,
    parts: list[str],
) -> None:
    spoil(tree)
    actual, out, err = run(flags(good, **changes), capsys)
    assert (actual, out) == (code, "")
    assert_one_line(err, *parts)
    assert not list((tree.parent / "models").glob("tiny/[0-9]*"))


def test_a_model_directory_without_write_permission(
    good: dict[str, Any], read_only_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["export-pretrained", "--model-dir", str(read_only_directory)], capsys)
    assert code == 8
    assert_one_line(err, "not writable", "Permission denied")


def test_mistyped_flags_and_commands_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["train", "--epoch", "x"], ["trian"], []):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 2
    assert "usage: python -m trainer" in capsys.readouterr().err


def test_sample_writes_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["sample", str(tmp_path / "s"), "--train-per-class", "1"], capsys)
    assert code == 0
    assert "6 train, 60 validation, 12 test images of 6 classes" in out
    code, _, err = run(["sample", str(tmp_path / "s")], capsys)
    assert code == 3
    assert_one_line(err, "new or empty directory")
    code, _, err = run(["sample", str(tmp_path / "t"), "--train-per-class", "0"], capsys)
    assert code == 2
    assert_one_line(err, "at least one image")


@pytest.mark.parametrize(
    ("flag", "searched"),
    [
        ("--learning-rate", "--learning-rates"),
        ("--hidden-units", "--hidden-unit-counts"),
        ("--dropout", "--dropouts"),
    ],
)
def test_tune_refuses_a_flag_of_what_it_searches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, searched: str
) -> None:
    assert cli.main(["tune", "--data", str(tmp_path), "--model-dir", str(tmp_path), flag, "0"]) == 2
    assert searched in capsys.readouterr().err
