import logging
import os
from pathlib import Path

import pytest

from tests.trainer.data.trees import make_tree
from trainer.data.folders import scan_folders, scan_split
from trainer.errors import ConfigError, DataError


def test_classes_are_sorted_and_labels_point_at_them(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/b": 2, "train/a": 1, "validation/a": 1, "validation/b": 1})
    train = scan_folders(tmp_path).splits["train"]
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


def test_the_test_split_is_optional(tmp_path: Path, image_tree: Path) -> None:
    assert list(scan_folders(image_tree).splits) == ["train", "validation", "test"]
    make_tree(tmp_path, {f"{split}/{name}": 1 for split in ("train", "validation") for name in "ab"})
    assert list(scan_folders(tmp_path).splits) == ["train", "validation"]


def test_validation_split_takes_a_share_of_each_class_and_nothing_twice(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 10, "b": 5})
    splits = scan_folders(tmp_path, validation_split=0.2, seed=1).splits
    assert splits["validation"].summary()["per_class"] == {"a": 2, "b": 1}
    assert splits["train"].summary()["per_class"] == {"a": 8, "b": 4}
    assert not set(splits["train"].paths) & set(splits["validation"].paths)
    assert splits == scan_folders(tmp_path, validation_split=0.2, seed=1).splits
    assert splits != scan_folders(tmp_path, validation_split=0.2, seed=2).splits


def test_adding_a_class_does_not_change_what_is_held_out_of_the_others(tmp_path: Path) -> None:
    make_tree(tmp_path, {"b": 10, "c": 10})
    before = scan_folders(tmp_path, validation_split=0.3).splits["validation"].paths
    make_tree(tmp_path, {"a": 7})
    after = scan_folders(tmp_path, validation_split=0.3).splits["validation"].paths
    assert [path for path in after if path.parent.name != "a"] == list(before)


def test_other_files_are_ignored_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "labels.csv").touch()
    (tmp_path / "a" / ".DS_Store").touch()
    with caplog.at_level(logging.WARNING):
        assert len(scan_folders(tmp_path, validation_split=0.5).splits["train"]) == 2
    assert "labels.csv" in caplog.text
    assert ".DS_Store" not in caplog.text


BOTH = {f"{split}/{name}": 1 for split in ("train", "validation") for name in "ab"}


@pytest.mark.parametrize(
    ("counts", "validation_split", "error", "message"),
    [
        pytest.param({"a": 1, "b": 1}, None, DataError, "--validation-split", id="single tree, no split"),
        pytest.param({"train/a": 1, "train/b": 1}, None, DataError, "validation", id="no validation"),
        pytest.param(BOTH, 0.2, ConfigError, "--validation-split", id="split of a split tree"),
        pytest.param({"train": 0, "validation": 0}, None, DataError, "Received: none", id="empty split"),
        pytest.param({**BOTH, "train/c": 0}, None, DataError, "no image in c", id="empty class"),
        pytest.param(
            {"train/a": 1, "validation/a": 1},
            None,
            DataError,
            "Received: a",
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
        pytest.param({"a": 1, "b": 3}, 0.2, DataError, "--validation-split 0.2 .*'a'", id="too few to split"),
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
        scan_folders(tmp_path, validation_split=validation_split)


def test_an_unreadable_class_folder_is_named(read_only_directory: Path) -> None:
    os.seteuid(os.getuid())
    folder = read_only_directory / "a"
    folder.mkdir()
    folder.chmod(0)
    try:
        if os.getuid() == 0:
            os.seteuid(65534)
        with pytest.raises(DataError, match="/a .*Permission denied"):
            scan_folders(read_only_directory, validation_split=0.5)
    finally:
        os.seteuid(os.getuid())
        folder.rmdir()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_tree(tmp_path, {"car": 2, "train": 2})
    assert scan_folders(tmp_path, validation_split=0.5).splits["train"].classes == ("car", "train")


def test_refuses_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data .*nowhere"):
        scan_folders(tmp_path / "nowhere")


def add_invalid(tree: Path, *folders: str) -> list[Path]:
    """Add an empty file to each folder."""
    paths = [tree / folder / "empty.jpg" for folder in folders]
    for path in paths:
        path.touch()
    return paths


def test_invalid_images_are_set_apart_and_do_not_change_the_splits(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 4, "b": 6})
    before = scan_folders(tmp_path, validation_split=0.3)
    assert before.invalid == ()
    paths = add_invalid(tmp_path, "a", "b")
    scan = scan_folders(tmp_path, validation_split=0.3)
    assert [(image.path, image.reason) for image in scan.invalid] == [(path, "zero bytes") for path in paths]
    assert scan.splits == before.splits
    assert scan.splits["train"].fingerprint == before.splits["train"].fingerprint


def test_invalid_images_of_every_split_are_found(tmp_path: Path) -> None:
    make_tree(tmp_path, {f"{split}/{name}": 1 for split in ("train", "validation", "test") for name in "ab"})
    paths = add_invalid(tmp_path, "train/a", "validation/b", "test/a")
    assert [image.path for image in scan_folders(tmp_path).invalid] == paths


def test_refuses_a_class_with_invalid_images_only(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 0})
    (path,) = add_invalid(tmp_path, "validation/b")
    with pytest.raises(DataError, match=f"'b'.*{path} .zero bytes"):
        scan_folders(tmp_path)


def test_scans_one_tree_and_refuses_invalid_images_in_it(tmp_path: Path) -> None:
    make_tree(tmp_path, {"b": 2, "a": 1})
    images = scan_split(tmp_path)
    assert (images.classes, images.labels) == (("a", "b"), (0, 1, 1))
    (path,) = add_invalid(tmp_path, "b")
    with pytest.raises(DataError, match=rf"1 of 4 .*{path}") as caught:
        scan_split(tmp_path)
    assert "--on-invalid-image" not in str(caught.value)  # a flag of another command
    with pytest.raises(DataError, match="nowhere"):
        scan_split(tmp_path / "nowhere")
