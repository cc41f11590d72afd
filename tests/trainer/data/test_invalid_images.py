import hashlib
import io
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from serving_client import heif
from trainer.data.invalid_images import (
    InvalidImage,
    inspect_image_file,
    invalid_images_error,
    invalid_images_json,
)


def gif_whose_first_frame_is_smaller() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, format="GIF")
    data = bytearray(buffer.getvalue())
    data[6:8] = (30).to_bytes(2, "little")  # the canvas's width
    return bytes(data)


def bmp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="BMP")
    return buffer.getvalue()


GRADIENT = Image.linear_gradient("L").convert("RGB")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "zero bytes", id="empty"),
        pytest.param(b"<html>", "JPEG, PNG, BMP, GIF, WebP, HEIC or AVIF", id="a web page named .jpg"),
        pytest.param(b"RIFF....WAVEfmt ", "JPEG, PNG, BMP, GIF, WebP, HEIC or AVIF", id="a sound named .jpg"),
        pytest.param(bmp(GRADIENT.quantize(8)), "palette", id="BMP with a palette"),
        pytest.param(gif_whose_first_frame_is_smaller(), "first frame", id="GIF with a small first frame"),
        pytest.param(b"BM", "", id="BMP without a header"),
    ],
)
def test_refuses_files_that_training_and_serving_would_not_decode_alike(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    digest, invalid = inspect_image_file(path)
    assert digest == hashlib.sha256(content).hexdigest()
    assert invalid is not None and invalid.path == path
    assert invalid.reason and reason in invalid.reason


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xd8\xff", id="JPEG"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="PNG"),
        pytest.param(bmp(GRADIENT), id="BMP"),
        pytest.param(b"RIFF....WEBP", id="WebP"),
    ],
)
def test_accepts_the_beginning_of_each_format(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert inspect_image_file(tmp_path / "x.jpg") == (hashlib.sha256(content).hexdigest(), None)


def test_a_file_that_cannot_be_read_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    _, invalid = inspect_image_file(tmp_path / "gone.jpg")
    assert invalid == InvalidImage(tmp_path / "gone.jpg", "cannot be read: No such file or directory")


def test_a_name_that_is_not_utf8_can_be_printed_and_listed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(b"\xff\xd8\xff")
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
