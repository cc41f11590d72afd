import io
import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from trainer import images
from trainer.errors import ConfigError, DataError


def make_tree(root: Path, counts: dict[str, int]) -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}.jpg").write_bytes(b"\xff\xd8\xff" + f"{folder}/{index}".encode())
    return root


def test_classes_are_sorted_and_labels_point_at_them(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/b": 2, "train/a": 1, "validation/a": 1, "validation/b": 1})
    train = images.scan(tmp_path)["train"]
    assert train.classes == ("a", "b")
    assert [
        (path.parent.name, train.classes[label])
        for path, label in zip(train.paths, train.labels, strict=True)
    ] == [
        ("a", "a"),
        ("b", "b"),
        ("b", "b"),
    ]
    assert train.summary()["per_class"] == {"a": 1, "b": 2}


def test_test_split_is_found_where_it_is(tmp_path: Path, image_tree: Path) -> None:
    assert list(images.scan(image_tree)) == ["train", "validation", "test"]
    make_tree(tmp_path, {f"{split}/{name}": 1 for split in ("train", "validation") for name in "ab"})
    assert list(images.scan(tmp_path)) == ["train", "validation"]


def test_validation_split_takes_a_share_of_each_class_and_nothing_twice(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 10, "b": 5})
    splits = images.scan(tmp_path, validation_split=0.2, seed=1)
    assert splits["validation"].summary()["per_class"] == {"a": 2, "b": 1}
    assert splits["train"].summary()["per_class"] == {"a": 8, "b": 4}
    assert not set(splits["train"].paths) & set(splits["validation"].paths)
    assert splits == images.scan(tmp_path, validation_split=0.2, seed=1)
    assert splits != images.scan(tmp_path, validation_split=0.2, seed=2)


def test_fingerprint_changes_with_a_byte_a_name_and_a_class(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return images.scan(tmp_path, validation_split=0.5)["train"].fingerprint

    make_tree(tmp_path, {"a": 2, "b": 2})
    before = fingerprint()
    assert fingerprint() == before
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes() + b"!")
    changed = fingerprint()
    assert changed != before
    (tmp_path / "a").rename(tmp_path / "aa")
    assert fingerprint() != changed


def test_other_files_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "labels.csv").touch()
    (tmp_path / "a" / ".DS_Store").touch()
    with caplog.at_level(logging.WARNING):
        assert len(images.scan(tmp_path, validation_split=0.5)["train"]) == 2
    assert "labels.csv" in caplog.text
    assert ".DS_Store" not in caplog.text


BOTH = {f"{split}/{name}": 1 for split in ("train", "validation") for name in "ab"}


@pytest.mark.parametrize(
    ("counts", "validation_split", "error", "message"),
    [
        pytest.param(
            {"a": 1, "b": 1}, None, DataError, "add --validation-split 0.2", id="single tree, no split"
        ),
        pytest.param(
            {"train/a": 1, "train/b": 1}, None, DataError, "none named 'validation'", id="no validation"
        ),
        pytest.param(BOTH, 0.2, ConfigError, "is for a single tree", id="split of a split tree"),
        pytest.param({"train": 0, "validation": 0}, None, DataError, "Received: none", id="empty split"),
        pytest.param({**BOTH, "train/c": 0}, None, DataError, "Empty: c", id="empty class"),
        pytest.param(
            {"train/a": 1, "validation/a": 1},
            None,
            DataError,
            "at least two class folders. Received: a",
            id="one class",
        ),
        pytest.param({**BOTH, "train/c": 1}, None, DataError, "only in train: c", id="class only in train"),
        pytest.param(
            {**BOTH, "validation/c": 1},
            None,
            DataError,
            "only in validation: c",
            id="class only in validation",
        ),
        pytest.param(
            {**BOTH, "test/a": 1, "test/z": 1},
            None,
            DataError,
            "only in train: b; only in test: z",
            id="other test classes",
        ),
        pytest.param({"a": 1, "b": 3}, 0.2, DataError, "leaves no image of class 'a'", id="too few to split"),
    ],
)
def test_refuses(
    tmp_path: Path,
    counts: dict[str, int],
    validation_split: float | None,
    error: type[Exception],
    message: str,
) -> None:
    make_tree(tmp_path, counts)
    with pytest.raises(error, match=message):
        images.scan(tmp_path, validation_split=validation_split)


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
        pytest.param(b"", "no JPEG, PNG, BMP or GIF", id="empty"),
        pytest.param(b"RIFF....WEBPVP8 ", "no JPEG, PNG, BMP or GIF", id="WebP named .jpg"),
        pytest.param(palette_bmp(), "a BMP with a palette", id="palette BMP"),
        pytest.param(gif_whose_first_frame_is_smaller(), "the first frame does not fill", id="GIF"),
    ],
)
def test_what_could_not_be_classified_later_is_not_trained_on(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    make_tree(tmp_path, {"a": 3, "b": 3})
    for name in "ab":
        (tmp_path / name / "bad.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"images cannot be used: .*bad.jpg .{reason}"):
        images.scan(tmp_path, validation_split=0.5)


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"'caf.*' \(its name is no UTF-8\)") as caught:
        images.scan(tmp_path, validation_split=0.5)
    str(caught.value).encode()


def test_an_unreadable_class_folder_is_named(read_only_directory: Path) -> None:
    os.seteuid(os.getuid())
    folder = read_only_directory / "a"
    folder.mkdir()
    folder.chmod(0)
    try:
        if os.getuid() == 0:
            os.seteuid(65534)
        with pytest.raises(DataError, match="/a cannot be read: Permission denied"):
            images.scan(read_only_directory, validation_split=0.5)
    finally:
        os.seteuid(os.getuid())
        folder.rmdir()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_tree(tmp_path, {"car": 2, "train": 2})
    assert images.scan(tmp_path, validation_split=0.5)["train"].classes == ("car", "train")


def test_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        images.scan(tmp_path / "nowhere")
