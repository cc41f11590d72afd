import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from serving_client.formats import heif
from tests.pictures import numbered_picture
from trainer.data.invalid_images import (
    InvalidImage,
    inspect_image_file,
    invalid_images_error,
    invalid_images_json,
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "zero bytes", id="empty"),
        pytest.param(b"<html>", "a file of the format HTML", id="web page"),
        pytest.param(numbered_picture("1")[:-1], "a truncated GIF", id="truncated"),
    ],
)
def test_names_what_came_instead_of_a_picture(tmp_path: Path, content: bytes, reason: str) -> None:
    """tests/serving_client/test_image_format.py has the other reasons."""
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert inspect_image_file(path) == (hashlib.sha256(content).hexdigest(), InvalidImage(path, reason))


def test_accepts_a_picture_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(numbered_picture("1"))
    digest = hashlib.sha256(numbered_picture("1")).hexdigest()
    assert inspect_image_file(tmp_path / "x.jpg") == (digest, None)


def test_a_file_that_cannot_be_read_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    _, invalid = inspect_image_file(tmp_path / "gone.jpg")
    assert invalid == InvalidImage(tmp_path / "gone.jpg", "cannot be read: No such file or directory")


def test_a_name_that_is_not_utf8_can_be_printed_and_listed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(numbered_picture("1"))
    _, invalid = inspect_image_file(path)
    assert invalid is not None and "UTF-8" in invalid.reason
    assert b"'caf" in str(invalid_images_error([invalid], 4)).encode()
    (written,) = json.loads(invalid_images_json([invalid]).encode("ascii"))
    assert written == {"path": str(path), "reason": invalid.reason}


def test_the_error_names_ten_files_with_reasons_and_the_flag() -> None:
    invalid = [InvalidImage(Path(f"a/{index}.jpg"), "zero bytes") for index in range(12)]
    message = str(invalid_images_error(invalid, 30))
    assert message.startswith("12 of 30 ")
    assert "a/0.jpg (zero bytes), " in message
    assert "a/9.jpg (zero bytes) and 2 more" in message
    assert "a/10.jpg" not in message
    assert "--on-invalid-image skip" in message
    assert "--on-invalid-image" not in str(invalid_images_error(invalid, 30, can_be_skipped=False))


@pytest.mark.parametrize(("brand", "name"), [(b"heic", "HEIC"), (b"avif", "AVIF")])
def test_a_file_that_needs_another_package_is_invalid_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brand: bytes, name: str
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"\0\0\0\x10ftyp" + brand + bytes(100))
    assert inspect_image_file(path)[1] is None
    monkeypatch.setattr(heif, "_reader", lambda name: None)
    assert re.search(rf"{name}.*pip install.*\[heif\]", str(inspect_image_file(path)[1]))
