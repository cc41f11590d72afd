"""Figures beside what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Limits = Mapping[str, tuple[Literal["<=", ">="], float]]


def hold(figures: Mapping[str, float], limits: Limits) -> bool:
    """Print a line for each limit; return whether all hold."""
    held = []
    for key, (sign, limit) in limits.items():
        held.append(figures[key] <= limit if sign == "<=" else figures[key] >= limit)
        print(f"{key:<36} {figures[key]:>10.3f}   {sign} {limit:<5g} {'ok' if held[-1] else 'MISSED'}")
    return all(held)
