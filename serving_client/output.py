"""Print results as tables, JSON or CSV, and progress on a terminal."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving_client.codec import Prediction, VersionStatus
from serving_client.model_card import ModelCard

Writer = Callable[[str, Prediction], None]
"""Prints one image's name and prediction."""


def json_writer(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Return a writer of one JSON object per image and line."""

    def write(name: str, prediction: Prediction) -> None:
        scores = [{"label": score.label, "probability": score.probability} for score in prediction.scores]
        answer = {"file": name, "version": prediction.version, "scores": scores}
        print(json.dumps(answer, ensure_ascii=False))

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
    file_width = max(len(name) for name in (*names, "file"))
    label_width = max(len(label) for label in (*labels, "label"))
    needs_header = True

    def write(name: str, prediction: Prediction) -> None:
        nonlocal needs_header
        if needs_header:
            print(f"{'file':{file_width}}  {'label':{label_width}}  probability")
            needs_header = False
        for score in prediction.scores:
            print(f"{name:{file_width}}  {score.label:{label_width}}  {score.probability:11.4f}")
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
        "labels": f"{len(card.labels)}: {', '.join(card.labels)}",
        "input": f"RGB, {spec.width_px} px wide, {spec.height_px} px high",
        "preprocessing": f"{spec.resize_filter} resize, then preprocess_input in mode {spec.mode}",
        **_training_facts(card.raw),
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in facts.items())


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
    rows = [("version", "state", "error"), *((str(one.version), one.state, one.error) for one in statuses)]
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
