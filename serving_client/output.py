"""Results as a person reads them, or as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving_client.card import ModelCard
from serving_client.codec import Prediction, VersionStatus

Writer = Callable[[str, Prediction], None]


def json_lines(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Write one JSON object per image and line."""

    def write(name: str, prediction: Prediction) -> None:
        scores = [{"label": score.label, "probability": score.probability} for score in prediction.scores]
        answer = {"file": name, "version": prediction.version, "scores": scores}
        print(json.dumps(answer, ensure_ascii=False))

    return write


def csv_rows(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Write one row per image and label, the most probable label first."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("file", "version", "rank", "label", "probability"))

    def write(name: str, prediction: Prediction) -> None:
        for rank, score in enumerate(prediction.scores, start=1):
            rows.writerow((name, prediction.version, rank, score.label, score.probability))

    return write


def table(names: Sequence[str], labels: Sequence[str]) -> Writer:
    """Write aligned columns, row by row: what will stand in them is known beforehand."""
    file_width = max(len(name) for name in (*names, "file"))
    label_width = max(len(label) for label in (*labels, "label"))
    is_empty = True

    def write(name: str, prediction: Prediction) -> None:
        nonlocal is_empty
        if is_empty:
            print(f"{'file':{file_width}}  {'label':{label_width}}  probability")
            is_empty = False
        for score in prediction.scores:
            print(f"{name:{file_width}}  {score.label:{label_width}}  {score.probability:11.4f}")
            name = ""

    return write


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text in aligned columns: the first to the left, numbers to the right."""
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


def card(card: ModelCard) -> str:
    """Return what a person wants to know of a model."""
    spec = card.input
    facts = {
        "model": f"{card.name}, version {card.version}",
        "labels": f"{len(card.labels)}: {', '.join(card.labels)}",
        "input": f"RGB, {spec.width_px} px wide, {spec.height_px} px high",
        "preprocessing": f"{spec.resize_filter} resize, then preprocess_input in mode {spec.mode}",
        **_facts(card.raw),
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in facts.items())


def _facts(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return what the trainer has added; another program's card may lack it."""
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


def statuses(found: Sequence[VersionStatus]) -> str:
    """Return a table of versions."""
    rows = [("version", "state", "error"), *((str(one.version), one.state, one.error) for one in found)]
    return columns(rows)


class Counter:
    """How many of the images are done, on a terminal whose results go elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = self._shown = time.monotonic()
        self._is_shown = sys.stderr.isatty() and not sys.stdout.isatty()

    def add(self) -> None:
        """Count one more; ten times a second at most it is shown."""
        self._done += 1
        now = time.monotonic()
        if self._is_shown and now - self._shown > 0.1:
            self._shown = now
            rate = self._done / (now - self._started)
            left_s = (self._total - self._done) / rate
            bar = "━" * (30 * self._done // self._total)
            self._write(
                f"{bar:─<30} {self._done:,}/{self._total:,}  {rate:.0f} images/s  {left_s:.0f} s left"
            )

    def clear(self) -> None:
        """Leave the line empty."""
        if self._is_shown:
            self._write("")

    def _write(self, line: str) -> None:
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
