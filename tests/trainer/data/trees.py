"""Folders of small pictures."""

from __future__ import annotations

from pathlib import Path

from tests.pictures import numbered_picture


def make_tree(root: Path, counts: dict[str, int]) -> Path:
    """Write that many pictures into each folder, all of different bytes."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}.jpg").write_bytes(numbered_picture(f"{folder}/{index}"))
    return root
