import json
from pathlib import Path

import pytest

from serving_client import ServerUnavailable, cli


def run(argv: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(list(map(str, argv)))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def server(address: str) -> list[object]:
    return ["--server", address, "--model", "tiny", "--timeout-s", 60]


def pictures(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("test/*/*.jpg"))


def test_prints_a_table(server: list[object], image_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = pictures(image_tree)
    code, out, err = run(["classify", *paths, *server], capsys)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["file", "label", "probability"]
    for line, path in zip(lines[1:], paths, strict=True):
        file, label, probability = line.split()
        assert file == str(path)
        assert label in {"fish", "flower", "house", "moon", "sun", "tree"}
        assert 0 < float(probability) <= 1
    assert len({len(line) for line in lines}) == 1  # columns are aligned


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_json_is_one_object_a_line(
    server: list[object], image_tree: Path, capsys: pytest.CaptureFixture[str], via: str
) -> None:
    paths = pictures(image_tree)
    code, out, _ = run(["classify", *paths, *server, "--json", "--top-k", 2, "--via", via], capsys)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(path) for path in paths]
    for answer in answers:
        assert answer["version"] == 1
        assert len(answer["scores"]) == 2


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_a_bad_image_is_reported_and_the_others_are_answered(
    server: list[object], image_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], via: str
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    good = pictures(image_tree)[:2]
    code, out, err = run(["classify", good[0], bad, good[1], "--via", via, *server], capsys)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[1:]] == [str(path) for path in good]
    assert err.count("\n") == 1
    assert err.startswith(f"python -m serving_client: {bad}: cannot be decoded")


def test_nothing_but_bad_images_is_no_table(server: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["classify", "/nowhere.jpg", *server], capsys)
    assert (code, out) == (1, "")
    assert "/nowhere.jpg: cannot be read" in err


def test_a_server_that_goes_away_midway_takes_nothing_of_what_it_answered(
    server: list[object],
    image_tree: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = pictures(image_tree)[:4]
    monkeypatch.setattr(cli, "_CHUNK", 2)
    ask = cli.Client.classify
    asked: list[int] = []

    def goes_away(client: cli.Client, *arguments: object, **options: object) -> object:
        asked.append(1)
        if len(asked) == 2:
            client.close()
            raise ServerUnavailable("gone")
        return ask(client, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cli.Client, "classify", goes_away)
    code, out, err = run(["classify", *paths, *server], capsys)
    assert (code, err) == (1, "python -m serving_client: gone\n")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [str(path) for path in paths[:2]]


def test_describe_prints_the_card(server: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["describe", *server], capsys)
    assert code == 0
    assert json.loads(out)["labels"][0] == "fish"


def test_no_server_is_one_line(image_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["classify", pictures(image_tree)[0], "--server", "localhost:1", "--model", "m"]
    code, out, err = run(argv, capsys)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("python -m serving_client: localhost:1, model 'm': UNAVAILABLE")


@pytest.mark.parametrize(
    "argv",
    [
        ["classify"],
        ["classify", "x.jpg"],
        ["classify", "x.jpg", "--model", "m", "--top-k", "0"],
        ["classify", "x.jpg", "--model", "m", "--timeout-s", "soon"],
        ["clasify"],
    ],
)
def test_wrong_usage_exits_with_2(argv: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(argv, capsys)
    assert caught.value.code == 2
