import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from trainer.data.images import scan_folders

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


def palette_bmp() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").quantize(8).save(buffer, format="BMP")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "zero bytes", id="empty"),
        pytest.param(b"<html>", "no JPEG, PNG, BMP or GIF", id="a web page named .jpg"),
        pytest.param(b"RIFF....WEBPVP8 ", "no JPEG, PNG, BMP or GIF", id="WebP named .jpg"),
        pytest.param(palette_bmp(), "a BMP with a palette", id="palette BMP"),
        pytest.param(gif_whose_first_frame_is_smaller(), "the first frame does not fill", id="GIF"),
    ],
)
def test_what_could_not_be_classified_later_is_told_apart(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.jpg").write_bytes(b"\xff\xd8\xff")
        (tmp_path / name / "bad.jpg").write_bytes(content)
    bad = scan_folders(tmp_path, validation_split=0.5).bad
    assert [one.path for one in bad] == [tmp_path / name / "bad.jpg" for name in "ab"]
    assert all(one.reason.startswith(reason) for one in bad)


def test_a_file_that_may_not_be_read_is_bad(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    _, bad = inspect_image_file(tmp_path / "gone.jpg")
    assert bad == InvalidImage(tmp_path / "gone.jpg", "cannot be read: No such file or directory")


def test_a_name_that_is_no_utf8_is_refused_in_a_message_that_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(b"\xff\xd8\xff")
    _, bad = inspect_image_file(path)
    assert bad is not None and bad.reason == "its name is no UTF-8"
    message = str(invalid_images_error([bad], 4))
    assert message.encode().startswith(b"1 of 4 images cannot be used: 'caf")
    (written,) = json.loads(invalid_images_json([bad]).encode("ascii"))
    assert written == {"path": str(path), "reason": bad.reason}


def test_the_error_names_files_and_reasons_and_both_ways_out() -> None:
    bad = [InvalidImage(Path(f"a/{index}.jpg"), "zero bytes") for index in range(12)]
    assert str(invalid_images_error(bad[:1], 3)) == (
        "1 of 3 images cannot be used: a/0.jpg (zero bytes). Mend or remove them, or pass "
        "--on-invalid-image skip."
    )
    assert "a/9.jpg (zero bytes) and 2 more." in str(invalid_images_error(bad, 30))
