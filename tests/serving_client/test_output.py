"""Names and labels of every kind, in every locale, in every format and in error lines."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving_client import InputSpec, ModelCard, output
from tests.serving_client.holding_server import HoldingModel, serving

LABEL = "猫"
NAMES = (b"not-utf-8-\xff\xfe.png", "写真.png".encode(), b"two\nlines.png", b"\x1b7saved.png")
LOCALES = {
    "UTF-8": {"PYTHONUTF8": "1"},
    # Without Python's two ways to use UTF-8 all the same.
    "ASCII locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII stream": {"PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"},
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    model = HoldingModel()
    model.card["labels"] = ["a", LABEL]
    with serving(model) as address:
        yield address


@pytest.fixture
def names(tmp_path: Path) -> list[bytes]:
    """Paths of a picture under each name."""
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in NAMES]
    for path in paths:
        with open(path, "wb") as file:
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    return paths


def classify(
    names: list[bytes], address: str, locale: str, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    argv: list[str | bytes] = [sys.executable, "-m", "serving_client", "classify", *names]
    argv += ["--server", address, "--model", "m"]
    environment = {**os.environ, **LOCALES[locale]}
    done = subprocess.run([*argv, *arguments], env=environment, capture_output=True)
    assert done.returncode == code, done.stderr
    return done


def encoded(name: bytes, locale: str) -> bytes:
    """Return the name's bytes, with escapes of the characters that the stream cannot encode."""
    return name.replace("写真".encode(), rb"\u5199\u771f") if locale == "ASCII stream" else name


def shown(name: bytes, locale: str) -> bytes:
    """Return how a name is shown in a row or a line of its own."""
    return encoded(name, locale).replace(b"\n", rb"\x0a").replace(b"\x1b", rb"\x1b")


@pytest.mark.parametrize("locale", LOCALES)
def test_a_table_shows_the_bytes_of_each_name_in_one_row(
    names: list[bytes], address: str, locale: str
) -> None:
    done = classify(names, address, locale)
    label = LABEL.encode() if locale == "UTF-8" else rb"\u732b"
    rows = [row.rsplit(maxsplit=2) for row in done.stdout.splitlines()[1:]]
    assert rows == [[shown(name, locale), label, b"0.7500"] for name in names]
    assert done.stderr == b""


@pytest.mark.parametrize("locale", LOCALES)
def test_json_holds_names_that_encode_to_their_bytes(names: list[bytes], address: str, locale: str) -> None:
    answers = [json.loads(line) for line in classify(names, address, locale, "--json").stdout.splitlines()]
    encoding = "ascii" if locale == "ASCII locale" else "utf-8"  # what os.fsencode takes there
    assert [answer["file"].encode(encoding, "surrogateescape") for answer in answers] == names
    assert {answer["scores"][0]["label"] for answer in answers} == {LABEL}


@pytest.mark.parametrize("locale", LOCALES)
def test_csv_holds_the_bytes_of_each_name(names: list[bytes], address: str, locale: str) -> None:
    text = classify(names, address, locale, "--csv").stdout.decode(errors="surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["file"].encode(errors="surrogateescape") for row in rows] == [
        encoded(name, locale) for name in names
    ]


@pytest.mark.parametrize("locale", LOCALES)
def test_each_error_is_one_line_with_the_bytes_of_the_name(
    names: list[bytes], address: str, locale: str
) -> None:
    for name in names:
        os.remove(name)
    lines = classify(names, address, locale, code=1).stderr.splitlines()
    assert len(lines) == len(names)
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(b"python -m serving_client: " + shown(name, locale) + b": ")


@pytest.mark.parametrize(("model_id", "expected"), [("0123456789abcdef", "0123456789abcdef"), ("", "Export")])
def test_describe_says_how_a_version_is_told_apart(model_id: str, expected: str) -> None:
    card = ModelCard("m", 1, ("a", "b"), InputSpec(4, 4, "tf"), {})
    object.__setattr__(card, "model_id", model_id)
    (line,) = [line for line in output.format_card(card).splitlines() if line.startswith("identity")]
    assert expected in line
