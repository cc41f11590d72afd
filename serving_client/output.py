"""Print results as tables, JSON or CSV, and errors and progress on stderr."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving_client.model_card import ModelCard
from serving_client.predictions import Prediction, VersionStatus

PROGRAM = "python -m serving_client"

Writer = Callable[[str, Prediction], None]
"""Prints one image's name and prediction."""

# Line feeds and the like would break rows, and escape sequences would reach the terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def accept_any_text() -> None:
    """Let stdout and stderr print every name and label, in any locale.

    Python holds the bytes of a file name that are not text as lone surrogates. They are printed as the bytes
    that they stand for. A character that the stream's encoding lacks is printed as an escape: \\u732b.
    """
    codecs.register_error("serving_client", _bytes_or_escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="serving_client")


def _bytes_or_escape(error: UnicodeError) -> tuple[bytes | str, int]:
    """Encode the first character that the codec cannot encode: a handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return character.encode("ascii", "backslashreplace").decode(), error.start + 1


def one_line(text: str) -> str:
    """Replace control characters by their escapes."""
    return text.translate(_CONTROLS)


def print_error(message: str) -> None:
    """Print one line on stderr."""
    print(f"{PROGRAM}: {one_line(message)}", file=sys.stderr)


def print_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON, with escapes in place of text that stdout cannot encode as it is.

    A file name that is not UTF-8 has escapes such as \\udcff; `os.fsencode` of the parsed name returns its
    bytes.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(text)


def json_writer(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Return a writer of one JSON object per image and line."""

    def write(name: str, prediction: Prediction) -> None:
        scores = [{"label": score.label, "probability": score.probability} for score in prediction.scores]
        answer = {"file": name, "version": prediction.version, "scores": scores}
        print_json(answer)

    return write


def csv_writer(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Print the header; return a writer of one row per image and label, most probable label first."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("file", "version", "rank", "label", "probability"))

    def write(name: str, prediction: Prediction) -> None:
        for rank, score in enumerate(prediction.scores, start=1):
            rows.writerow((name, prediction.version, rank, score.label, score.probability))

    return write


def table_writer(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Return a writer of aligned columns. All names and labels are known, so each row prints at once."""
    file_width = max(len(one_line(name)) for name in (*names, "file"))
    label_width = max(len(one_line(label)) for label in (*labels, "label"))
    needs_header = True

    def write(name: str, prediction: Prediction) -> None:
        nonlocal needs_header
        if needs_header:
            print(f"{'file':{file_width}}  {'label':{label_width}}  probability")
            needs_header = False
        name = one_line(name)
        for score in prediction.scores:
            label = one_line(score.label)
            print(f"{name:{file_width}}  {label:{label_width}}  {score.probability:11.4f}")
            name = ""

    return write


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text in aligned columns: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index and _is_number(rows[-1][index]) else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdecimal()


def format_card(card: ModelCard) -> str:
    """Return a model card as text for people."""
    spec = card.input
    facts = {
        "model": f"{card.name}, version {card.version}",
        # Cards of older trainers have none.
        "identity": getattr(card, "model_id", "")
        or "none: a client cannot tell this version from another one under its number. Export it again.",
        "labels": f"{len(card.labels)}: {', '.join(card.labels)}",
        "input": f"RGB, {spec.width_px} px wide, {spec.height_px} px high",
        "preprocessing": f"{spec.resize_filter} resize, then preprocess_input in mode {spec.mode}",
        **_training_facts(card.raw),
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:{width}}  {one_line(fact)}" for name, fact in facts.items())


def _training_facts(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return how the model was trained. Cards that the trainer did not write may lack any of it."""
    facts = {}
    backbone = raw.get("backbone") or {}
    if backbone:
        facts["backbone"] = f"{backbone.get('name')}, weights {backbone.get('weights')}"
    for split, metrics in (raw.get("metrics") or {}).items():
        shown = [f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)]
        facts[split] = ", ".join(shown)
    if "created" in raw:
        facts["created"] = str(raw["created"])
    return facts


def format_statuses(statuses: Sequence[VersionStatus]) -> str:
    """Return a table of versions and their states."""
    rows = [
        ("version", "state", "error"),
        *((str(one.version), one.state, one_line(one.error)) for one in statuses),
    ]
    return align(rows)


class ProgressBar:
    """Progress on stderr. It shows only if stderr is a terminal and stdout is redirected."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = self._shown = time.monotonic()
        self._is_visible = sys.stderr.isatty() and not sys.stdout.isatty()

    def advance(self) -> None:
        """Count one more image; redraw at most ten times a second."""
        self._done += 1
        now = time.monotonic()
        if self._is_visible and now - self._shown > 0.1:
            self._shown = now
            rate = self._done / (now - self._started)
            left_s = (self._total - self._done) / rate
            bar = "━" * (30 * self._done // self._total)
            self._write(
                f"{bar:─<30} {self._done:,}/{self._total:,}  {rate:.0f} images/s  {left_s:.0f} s left"
            )

    def clear(self) -> None:
        """Erase the line."""
        if self._is_visible:
            self._write("")

    def _write(self, line: str) -> None:
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
