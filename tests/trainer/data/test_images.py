import hashlib
import logging
import os
from pathlib import Path

import pytest
from trainer.data.images import ImageSet, scan_folders, scan_split

from trainer.errors import ConfigError, DataError


def make_tree(root: Path, counts: dict[str, int]) -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}.jpg").write_bytes(b"\xff\xd8\xff" + f"{folder}/{index}".encode())
    return root


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


def test_test_split_is_found_where_it_is(tmp_path: Path, image_tree: Path) -> None:
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


def test_fingerprint_changes_with_a_byte_a_name_and_a_class(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return scan_folders(tmp_path, validation_split=0.5).splits["train"].fingerprint

    make_tree(tmp_path, {"a": 2, "b": 2})
    before = fingerprint()
    assert fingerprint() == before
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes() + b"!")
    changed = fingerprint()
    assert changed != before
    (tmp_path / "a").rename(tmp_path / "aa")
    assert fingerprint() != changed


def test_the_fingerprint_is_the_one_that_stored_features_and_cards_hold(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 1})
    train = scan_folders(tmp_path).splits["train"]
    contents = [path.read_bytes() for path in train.paths]
    assert train.digests == tuple(hashlib.sha256(content).hexdigest() for content in contents)
    lines = [f"{name}/0.jpg\0{digest}\n" for name, digest in zip("ab", train.digests, strict=True)]
    assert train.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_other_files_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
        scan_folders(tmp_path, validation_split=validation_split)


def test_an_unreadable_class_folder_is_named(read_only_directory: Path) -> None:
    os.seteuid(os.getuid())
    folder = read_only_directory / "a"
    folder.mkdir()
    folder.chmod(0)
    try:
        if os.getuid() == 0:
            os.seteuid(65534)
        with pytest.raises(DataError, match="/a cannot be read: Permission denied"):
            scan_folders(read_only_directory, validation_split=0.5)
    finally:
        os.seteuid(os.getuid())
        folder.rmdir()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_tree(tmp_path, {"car": 2, "train": 2})
    assert scan_folders(tmp_path, validation_split=0.5).splits["train"].classes == ("car", "train")


def test_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        scan_folders(tmp_path / "nowhere")


def add_bad(tree: Path, *folders: str, content: bytes = b"") -> list[Path]:
    paths = [tree / folder / "bad.jpg" for folder in folders]
    for path in paths:
        path.write_bytes(content)
    return paths


def test_bad_files_are_told_apart_and_the_rest_is_as_if_they_were_not_there(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 4, "b": 6})
    without = scan_folders(tmp_path, validation_split=0.3)
    assert without.bad == ()
    bad = add_bad(tmp_path, "a", "b")
    scan = scan_folders(tmp_path, validation_split=0.3)
    assert [(one.path, one.reason) for one in scan.bad] == [(path, "zero bytes") for path in bad]
    assert scan.splits == without.splits
    assert scan.splits["train"].fingerprint == without.splits["train"].fingerprint


def test_bad_files_of_every_split_are_told(tmp_path: Path) -> None:
    make_tree(tmp_path, {f"{split}/{name}": 1 for split in ("train", "validation", "test") for name in "ab"})
    bad = add_bad(tmp_path, "train/a", "validation/b", "test/a")
    assert [one.path for one in scan_folders(tmp_path).bad] == bad


def test_a_class_without_one_good_image_is_refused_with_a_bad_file(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 0})
    (bad,) = add_bad(tmp_path, "validation/b")
    with pytest.raises(DataError, match=f"class 'b' .* its 1 can: {bad} .zero bytes"):
        scan_folders(tmp_path)


def test_one_tree_is_scanned_and_its_bad_files_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, {"b": 2, "a": 1})
    found = scan_split(tmp_path)
    assert (found.classes, found.labels) == (("a", "b"), (0, 1, 1))
    (bad,) = add_bad(tmp_path, "b")
    with pytest.raises(DataError, match=rf"1 of 4 images .*: {bad} \(zero bytes\)\. Mend or remove them\.$"):
        scan_split(tmp_path)
    with pytest.raises(DataError, match="nowhere, which is no folder"):
        scan_split(tmp_path / "nowhere")


def test_without_is_the_same_set_as_if_the_files_had_never_been_there(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 2, "b": 3})
    images_of = scan_split(tmp_path)
    dropped = [tmp_path / "a" / "0.jpg", tmp_path / "b" / "1.jpg"]
    rest = images_of.without(dropped)
    for path in dropped:
        path.unlink()
    assert rest == scan_split(tmp_path)
    assert rest.fingerprint == scan_split(tmp_path).fingerprint != images_of.fingerprint
    assert rest.per_class == {"a": 1, "b": 2}


def test_without_refuses_to_leave_a_class_empty() -> None:
    paths = (Path("a/0.jpg"), Path("b/0.jpg"), Path("b/1.jpg"))
    both = ImageSet(("a", "b"), paths, (0, 1, 1), ("x", "y", "z"))
    with pytest.raises(DataError, match="class 'b' .* its 2 can: b/0.jpg, b/1.jpg"):
        both.without(paths[1:])
