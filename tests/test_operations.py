"""The table of exit codes in docs/operations.md agrees with trainer/errors.py and k8s/training.yaml."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer import errors
from trainer.errors import TrainerError

ROOT = Path(__file__).parents[1]
JOB: dict[str, Any] = yaml.safe_load((ROOT / "k8s" / "training.yaml").read_text())["spec"]
TEXT = (ROOT / "docs" / "operations.md").read_text()

SYSTEM_CODES = {0, 130, 137}
"""Success, Ctrl-C and SIGKILL: codes without an error class."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    code: int
    error: str
    meaning: str
    kubernetes: str
    what_to_do: str


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"## {title}\n")[1], flags=re.M)[0]


def table() -> list[Row]:
    lines = [line for line in section("Exit codes").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [Row(int(code), error.strip("`"), *rest) for code, error, *rest in rows]


ROWS = {row.code: row for row in table()}
ERRORS = {
    one.exit_code: one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, TrainerError)
}


def test_every_exit_code_has_one_row_and_no_other() -> None:
    assert [row.code for row in table()] == sorted(set(ERRORS) | SYSTEM_CODES)


@pytest.mark.parametrize("code", ROWS)
def test_the_row_names_the_error(code: int) -> None:
    assert ROWS[code].error == ("–" if code in SYSTEM_CODES else ERRORS[code].__name__)


@pytest.mark.parametrize("code", ROWS)
def test_the_row_says_what_kubernetes_does(code: int) -> None:
    actions = {
        value: rule["action"]
        for rule in JOB["podFailurePolicy"]["rules"]
        for value in rule.get("onExitCodes", {}).get("values", [])
    }
    words = {"FailJob": "fails the Job", "Ignore": "retries without counting", None: "retries"}
    assert ROWS[code].kubernetes == ("completes the Job" if code == 0 else words[actions.get(code)])


def test_the_text_around_the_table_agrees_with_the_manifest() -> None:
    assert f"`backoffLimit`, {JOB['backoffLimit']} times" in section("Exit codes")
    conditions = [
        condition["type"]
        for rule in JOB["podFailurePolicy"]["rules"]
        for condition in rule.get("onPodConditions", [])
        if rule["action"] == "Ignore"
    ]
    assert conditions == ["DisruptionTarget"]
    assert "`DisruptionTarget`" in section("Exit codes")


def test_signals_have_the_shells_numbers() -> None:
    assert {code: code - 128 for code in ROWS if code > 128} == {130: 2, 137: 9, 143: 15}


def test_every_flag_in_the_table_is_one() -> None:
    from trainer.config import TrainConfig, flag_of

    flags = {flag_of(field.name) for field in dataclasses.fields(TrainConfig)}
    named = set(re.findall(r"--[a-z][a-z-]+", section("Exit codes")))
    assert named and named <= flags
