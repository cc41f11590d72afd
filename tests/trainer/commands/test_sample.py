from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.commands import sample
from trainer.errors import DataError


def all_bytes(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        sample.write_sample(tmp_path / name, train_per_class=2, validation_per_class=1, seed=seed)
    assert all_bytes(tmp_path / "one") == all_bytes(tmp_path / "again")
    assert all_bytes(tmp_path / "one") != all_bytes(tmp_path / "other")


def test_no_image_is_in_two_splits(image_tree: Path) -> None:
    files = all_bytes(image_tree)
    assert len(set(files.values())) == len(files) == 6 * (8 + 10 + 2)


def test_at_least_six_classes_each_with_a_look_of_its_own(image_tree: Path) -> None:
    classes = sorted(path.name for path in (image_tree / "train").iterdir())
    assert len(classes) >= 6
    means = {
        name: np.mean([np.asarray(Image.open(path)) for path in (image_tree / "train" / name).iterdir()], 0)
        for name in classes
    }
    for one in classes:
        for other in classes:
            assert one == other or np.abs(means[one] - means[other]).mean() > 15


def test_refuses_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="new or empty directory"):
        sample.write_sample(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_refuses_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written: Not a directory"):
        sample.write_sample(tmp_path / "file" / "sample")
