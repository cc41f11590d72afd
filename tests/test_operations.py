"""docs/operations.md says of every exit code what trainer/errors.py and k8s/training.yaml make of it."""

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

OF_THE_SYSTEM = {0, 130, 137}
"""Success, Ctrl-C and SIGKILL: codes that no error of ours has."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    code: int
    error: str
    meaning: str
    again: str
    in_the_job: str
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
    assert [row.code for row in table()] == sorted(set(ERRORS) | OF_THE_SYSTEM)


@pytest.mark.parametrize("code", ROWS)
def test_the_row_names_the_error(code: int) -> None:
    assert ROWS[code].error == ("–" if code in OF_THE_SYSTEM else ERRORS[code].__name__)


@pytest.mark.parametrize("code", ROWS)
def test_the_row_says_what_the_job_makes_of_the_code(code: int) -> None:
    actions = {
        value: rule["action"]
        for rule in JOB["podFailurePolicy"]["rules"]
        for value in rule.get("onExitCodes", {}).get("values", [])
    }
    words = {"FailJob": "ends it", "Ignore": "not counted", None: "counted"}
    assert ROWS[code].in_the_job == ("completes it" if code == 0 else words[actions.get(code)])


@pytest.mark.parametrize("code", ROWS)
def test_the_job_ends_where_another_start_is_no_use_and_does_not_count_where_it_is(code: int) -> None:
    row = ROWS[code]
    assert row.again in ("yes", "no", "perhaps", "–")
    assert (row.again == "no") == (row.in_the_job == "ends it")
    if row.in_the_job == "not counted":
        assert row.again == "yes"


def test_the_text_around_the_table_is_the_manifests() -> None:
    assert f"`backoffLimit`, {JOB['backoffLimit']} of them" in section("Exit codes")
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
