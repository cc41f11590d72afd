from pathlib import Path

import pytest

from tests.pictures import numbered_picture
from trainer.data.folders import scan_folders
from trainer.data.image_set import ImageSet, Splits
from trainer.data.quality import (
    Duplicate,
    balanced_class_weights,
    duplicate_warnings,
    find_duplicates,
    imbalance_warning,
    quality_warnings,
)


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    """Two classes in three splits, one image each, all different."""
    for split in ("train", "validation", "test"):
        for name in "ab":
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            (folder / "own.jpg").write_bytes(numbered_picture(f"{split}/{name}"))
    return scan_folders(tmp_path).splits


def copied(tmp_path: Path, source: str, *targets: str) -> Splits:
    for target in targets:
        (tmp_path / target).write_bytes((tmp_path / source).read_bytes())
    return scan_folders(tmp_path).splits


def test_different_images_are_not_duplicates(splits: Splits) -> None:
    assert find_duplicates(splits) == []
    assert duplicate_warnings([]) == []


def test_the_same_bytes_in_two_splits_are_named_once_for_each_pair(tmp_path: Path, splits: Splits) -> None:
    names = "train/a/own.jpg", "validation/a/copy.jpg", "test/b/copy.jpg"
    train, validation, test = (tmp_path / name for name in names)
    assert find_duplicates(copied(tmp_path, *names)) == [
        Duplicate(train, validation, ("train", "validation")),
        Duplicate(train, test, ("train", "test")),
        Duplicate(validation, test, ("validation", "test")),
    ]


def test_every_copy_in_the_later_split_counts(tmp_path: Path, splits: Splits) -> None:
    found = find_duplicates(
        copied(tmp_path, "train/a/own.jpg", "train/a/more.jpg", *(f"test/a/{n}.jpg" for n in range(4)))
    )
    assert [duplicate.first.name for duplicate in found] == ["more.jpg"] * 4
    (warning,) = duplicate_warnings(found)
    assert warning.startswith("4 of the test images ")
    assert "in train" in warning
    assert f"{tmp_path}/train/a/more.jpg = {tmp_path}/test/a/0.jpg" in warning
    assert "and 1 more" in warning


def test_one_image_under_two_classes_of_a_split_is_a_label_conflict(tmp_path: Path, splits: Splits) -> None:
    (found,) = find_duplicates(copied(tmp_path, "train/a/own.jpg", "train/b/copy.jpg"))
    assert found == Duplicate(tmp_path / "train/a/own.jpg", tmp_path / "train/b/copy.jpg", ("train", "train"))
    (warning,) = duplicate_warnings([found])
    assert warning.startswith("1 of the train images ")
    assert "class" in warning


def test_copies_within_one_class_are_not_reported(tmp_path: Path, splits: Splits) -> None:
    assert find_duplicates(copied(tmp_path, "train/a/own.jpg", "train/a/copy.jpg")) == []


def test_only_the_training_splits_imbalance_is_reported(tmp_path: Path, splits: Splits) -> None:
    assert quality_warnings(splits) == []
    for index in range(5):
        (tmp_path / "train" / "a" / f"{index}.jpg").write_bytes(numbered_picture(str(index)))
        (tmp_path / "test" / "b" / f"{index}.jpg").write_bytes(numbered_picture(str(index + 9)))
    found = copied(tmp_path, "train/a/own.jpg", "validation/a/copy.jpg")
    duplicate, imbalance = quality_warnings(found)
    assert duplicate.startswith("1 of the validation images ")
    assert "1 (b) to 6 (a)" in imbalance


def image_set(*counts: int) -> ImageSet:
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    names = tuple("abcdef"[: len(counts)])
    paths = tuple(Path(names[label], f"{index}.jpg") for index, label in enumerate(labels))
    return ImageSet(names, paths, labels, tuple(map(str, paths)))


def test_warns_of_imbalance_from_a_ratio_of_three() -> None:
    assert imbalance_warning(image_set(2, 5, 3)) is None
    warning = imbalance_warning(image_set(4, 6, 2))
    assert warning is not None
    assert "2 (c) to 6 (b)" in warning
    assert "--class-weight balanced" in warning


def test_class_weights_give_each_class_the_same_sum_and_a_mean_of_one() -> None:
    images = image_set(1, 3, 6)
    weights = balanced_class_weights(images)
    assert weights == pytest.approx((10 / 3, 10 / 9, 10 / 18))
    of_examples = [weights[label] for label in images.labels]
    assert sum(of_examples) / len(images) == pytest.approx(1)
    sums = [weight * count for weight, count in zip(weights, (1, 3, 6), strict=True)]
    assert sums == pytest.approx([10 / 3] * 3)
