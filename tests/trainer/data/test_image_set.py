import hashlib
from pathlib import Path

import pytest

from tests.trainer.data.trees import make_tree
from trainer.data.folders import scan_folders, scan_split
from trainer.data.image_set import ImageSet
from trainer.errors import DataError


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


def test_digests_and_fingerprint_are_the_documented_hashes(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 1})
    train = scan_folders(tmp_path).splits["train"]
    contents = [path.read_bytes() for path in train.paths]
    assert train.digests == tuple(hashlib.sha256(content).hexdigest() for content in contents)
    lines = [f"{name}/0.jpg\0{digest}\n" for name, digest in zip("ab", train.digests, strict=True)]
    assert train.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_without_equals_a_scan_after_the_files_are_deleted(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 2, "b": 3})
    images = scan_split(tmp_path)
    dropped = [tmp_path / "a" / "0.jpg", tmp_path / "b" / "1.jpg"]
    rest = images.without(dropped)
    for path in dropped:
        path.unlink()
    assert rest == scan_split(tmp_path)
    assert rest.fingerprint == scan_split(tmp_path).fingerprint != images.fingerprint
    assert rest.per_class == {"a": 1, "b": 2}


def test_without_refuses_to_leave_a_class_empty() -> None:
    paths = (Path("a/0.jpg"), Path("b/0.jpg"), Path("b/1.jpg"))
    both = ImageSet(("a", "b"), paths, (0, 1, 1), ("x", "y", "z"))
    with pytest.raises(DataError, match="'b'.*b/0.jpg, b/1.jpg"):
        both.without(paths[1:])


def test_subset_keeps_paths_labels_and_digests_together() -> None:
    paths = (Path("a/0.jpg"), Path("b/0.jpg"), Path("b/1.jpg"))
    images = ImageSet(("a", "b"), paths, (0, 1, 1), ("x", "y", "z"))
    assert images.subset([2, 0]) == ImageSet(("a", "b"), (paths[2], paths[0]), (1, 0), ("z", "x"))
    assert images.split({paths[1]}) == (images.subset([0, 2]), images.subset([1]))
