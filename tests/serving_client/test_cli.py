import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from serving_client import ServerUnavailable, cli
from serving_client.protocol import Call, Protocol
from serving_client.transport.threads import Conversation


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
def test_prints_one_json_object_per_line(
    server: list[object], image_tree: Path, capsys: pytest.CaptureFixture[str], via: str
) -> None:
    paths = pictures(image_tree)
    code, out, _ = run(["classify", *paths, *server, "--json", "--top", 2, "--via", via], capsys)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(path) for path in paths]
    for answer in answers:
        assert answer["version"] == 1
        assert len(answer["scores"]) == 2


@pytest.mark.parametrize("via", ["images", "encoded"])
def test_reports_an_invalid_image_and_classifies_the_others(
    server: list[object], image_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], via: str
) -> None:
    invalid = tmp_path / "invalid.jpg"
    invalid.write_bytes(b"not an image")
    valid = pictures(image_tree)[:2]
    code, out, err = run(["classify", valid[0], invalid, valid[1], "--via", via, *server], capsys)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[1:]] == [str(path) for path in valid]
    assert err.count("\n") == 1
    assert err.startswith(f"python -m serving_client: {invalid}: ")


def test_prints_no_table_if_all_images_are_invalid(
    server: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["classify", "/nowhere.jpg", *server], capsys)
    assert (code, out) == (1, "")
    assert "/nowhere.jpg" in err


def test_prints_the_answers_that_came_before_the_server_went_away(
    server: list[object],
    image_tree: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = pictures(image_tree)[:4]
    monkeypatch.setattr(Protocol, "batch_size", two_images)
    monkeypatch.setattr("serving_client.streams.threads.STREAM_BATCHES", 1)
    send = Conversation.send
    calls: list[Call] = []

    def goes_away(conversation: Conversation, call: Call) -> bytes:
        calls.append(call)
        if len(calls) == 3:  # the card, two images, two images
            raise ServerUnavailable("gone")
        return send(conversation, call)

    monkeypatch.setattr(Conversation, "send", goes_away)
    code, out, err = run(["classify", *paths, *server], capsys)
    assert (code, err) == (1, "python -m serving_client: gone\n")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [str(path) for path in paths[:2]]


def two_images(protocol: Protocol, via: str) -> Generator[Call, None, int]:
    yield from ()
    return 2


def test_prints_a_csv_row_for_each_label(
    server: list[object], image_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = pictures(image_tree)[:2]
    code, out, _ = run(["classify", *paths, *server, "--csv", "--top", 2], capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["file"], row["rank"]) for row in rows] == [(str(p), r) for p in paths for r in "12"]
    assert float(rows[0]["probability"]) > float(rows[1]["probability"])
    assert {row["version"] for row in rows} == {"1"}


def test_searches_folders_and_patterns(
    server: list[object], image_tree: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def files(*arguments: object) -> list[str]:
        code, out, _ = run(["classify", *arguments, *server, "--json"], capsys)
        assert code == 0
        return [json.loads(line)["file"] for line in out.splitlines()]

    every = [str(path) for path in pictures(image_tree)]
    assert files(image_tree / "test") == every
    assert files(f"{image_tree}/test/**/*.jpg") == every
    assert files(f"{image_tree}/test/s?n/*") == [path for path in every if "/sun/" in path]
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "one[1].JPG").write_bytes(pictures(image_tree)[0].read_bytes())
    assert files(tmp_path) == files(tmp_path / "one[1].JPG") == [str(tmp_path / "one[1].JPG")]


@pytest.mark.parametrize("pattern", ["", "*.jpg"])
def test_names_a_folder_or_pattern_without_images(
    server: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    code, out, err = run(["classify", tmp_path / pattern, *server], capsys)
    assert (code, out) == (1, "")
    assert str(tmp_path / pattern) in err


def test_reads_an_image_from_standard_input(address: str, image_tree: Path) -> None:
    argv = [sys.executable, "-m", "serving_client", "classify", "-", "--server", address, "--model", "tiny"]
    with (image_tree / "test" / "sun" / "000.jpg").open("rb") as picture:
        done = subprocess.run([*argv, "--json"], stdin=picture, capture_output=True, check=True)
    assert json.loads(done.stdout)["file"] == "-"


def test_a_closed_pipe_ends_quietly(address: str, image_tree: Path) -> None:
    command = f"{sys.executable} -m serving_client classify {image_tree} --server {address} --model tiny"
    done = subprocess.run(
        ["bash", "-c", f"{command} --top 6 --csv | head -n 1; exit ${{PIPESTATUS[0]}}"], capture_output=True
    )
    assert done.stdout == b"file,version,rank,label,probability\n"
    assert (done.returncode, done.stderr) in ((141, b""), (0, b""))


def test_draws_progress_on_a_terminal_that_has_stderr_alone(address: str, image_tree: Path) -> None:
    terminal, end = pty.openpty()
    argv = [sys.executable, "-m", "serving_client", "classify", str(image_tree)]
    subprocess.run(
        [*argv, "--server", address, "--model", "tiny"], stdout=subprocess.DEVNULL, stderr=end, check=True
    )
    os.close(end)
    assert re.search(rb"\r[\xe2\x94\x80-\xbf]+ \d+/120  \d+ images/s", os.read(terminal, 1 << 16))
    os.close(terminal)


def test_describe_prints_facts_for_people(server: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["describe", *server], capsys)
    assert code == 0
    assert re.search(r"^model +tiny, version 1$", out, re.MULTILINE)
    assert re.search(r"^labels +6: fish, flower, house, moon, sun, tree$", out, re.MULTILINE)
    assert re.search(r"^validation +accuracy [01]\.\d{4}, loss", out, re.MULTILINE)


def test_describe_prints_the_card_as_json(server: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["describe", "--json", *server], capsys)
    assert code == 0
    assert json.loads(out)["labels"][0] == "fish"


def test_status_lists_versions(server: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["status", *server], capsys)
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [["version", "state", "error"], ["1", "AVAILABLE"]]
    code, out, _ = run(["status", "--json", *server], capsys)
    assert json.loads(out) == {"version": 1, "state": "AVAILABLE", "error": ""}


@pytest.mark.parametrize("picture", [None, "sun/000.jpg"])
def test_bench_measures_both_request_types(
    server: list[object], image_tree: Path, capsys: pytest.CaptureFixture[str], picture: str | None
) -> None:
    image = [image_tree / "test" / picture] if picture else []
    argv = ["bench", *image, *server, "--requests", 20, "--concurrency", 2, "--batch", 3]
    code, out, _ = run(argv, capsys)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:2] == ["via", "requests/s"]
    assert [row[0] for row in rows[1:]] == ["images", "encoded"]
    code, out, _ = run([*argv, "--json"], capsys)
    for line in out.splitlines():
        figures = json.loads(line)
        assert figures["images_per_s"] == pytest.approx(3 * figures["requests_per_s"])
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
        assert figures["failed"] == 0


def test_a_missing_server_is_reported_in_one_line(
    image_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "classify",
        pictures(image_tree)[0],
        "--server",
        "localhost:1",
        "--model",
        "m",
        "--timeout-s",
        0.5,
    ]
    code, out, err = run(argv, capsys)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("python -m serving_client: localhost:1, model 'm': ")


@pytest.mark.parametrize(
    "argv",
    [
        ["classify"],
        ["classify", "x.jpg"],
        ["classify", "x.jpg", "--model", "m", "--top", "0"],
        ["classify", "x.jpg", "--model", "m", "--timeout-s", "soon"],
        ["clasify"],
    ],
)
def test_wrong_usage_exits_2(argv: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(argv, capsys)
    assert caught.value.code == 2
