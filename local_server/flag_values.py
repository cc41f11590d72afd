"""The types of the command line's values: each turns text into a value or says what was expected."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def at_least_1(text: str) -> int:
    """Return a whole number from 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1. Received: {text}")
    return int(text)


def whole_number(text: str) -> int:
    """Return a whole number from 0."""
    return 0 if text == "0" else at_least_1(text)


def integer(text: str) -> int:
    """Return a whole number, negative ones included."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number. Received: {text}") from error


def number(text: str) -> float:
    """Return a number that is not infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number. Received: {text}")
    return value


def fraction(text: str) -> float:
    """Return a number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1. Received: {text}")
    return value


def seconds(text: str) -> float:
    """Return a number from 0."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(
            f"must be 0 or more; negative values are for TensorFlow Serving's own tests. Received: {text}"
        )
    return value


def boolean(text: str) -> bool:
    """Return what `true` or `false` says."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false. Received: {text}")
    return text.lower() == "true"


def path(text: str) -> Path | None:
    """Return a path; None for no text, which in TensorFlow Serving is the same as no flag."""
    return Path(text) if text else None


def tags(text: str) -> tuple[str, ...]:
    """Return the words between commas."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"must be tags separated by commas, such as serve. Received: {text}")
    return words


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Return the names and values of NAME=VALUE,...; a value that is a whole number becomes one."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE pairs separated by commas. Received: {text}")
    return [(name, int(value) if value.lstrip("-").isdecimal() else value) for name, _, value in pairs]
