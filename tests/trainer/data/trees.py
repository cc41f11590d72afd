"""Folders of files that a scan takes for JPEGs."""

from __future__ import annotations

from pathlib import Path


def make_tree(root: Path, counts: dict[str, int]) -> Path:
    """Write that many files into each folder, all of different bytes that begin as a JPEG does."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}.jpg").write_bytes(b"\xff\xd8\xff" + f"{folder}/{index}".encode())
    return root
