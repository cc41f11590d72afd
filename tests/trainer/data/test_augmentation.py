from pathlib import Path

import numpy as np

from trainer.data.augmentation import view_seed
from trainer.data.folders import scan_split
from trainer.data.pipeline import ImageExamples
from trainer.model import find_backbone


def examples(tree: Path, seed: int = 0) -> ImageExamples:
    image_set = scan_split(tree / "train")
    return ImageExamples(image_set, find_backbone("mobilenetv3small"), 40, views=3, seed=seed)


def levels(these: ImageExamples, order: np.ndarray, batch_size: int = 16) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch, _ in these.batches(order, batch_size)])


def test_a_copy_depends_on_image_view_and_seed_and_not_on_its_neighbours(image_tree: Path) -> None:
    these = examples(image_tree)
    count = len(these.images)
    order = np.arange(3 * count)
    shuffled = np.random.default_rng(0).permutation(order)
    np.testing.assert_array_equal(levels(these, order)[shuffled], levels(these, shuffled, batch_size=5))
    other = levels(examples(image_tree, seed=1), order)
    np.testing.assert_array_equal(other[:count], levels(these, order[:count]))  # view 0: the unchanged images
    assert np.abs(other[count:] - levels(these, order[count:])).mean() > 1


def test_augmented_copies_differ_and_stay_in_range(image_tree: Path) -> None:
    these = examples(image_tree)
    count = len(these.images)
    plain, first, second = np.split(levels(these, np.arange(3 * count)), 3)
    for copy in (first, second):
        assert copy.min() >= 0
        assert copy.max() <= 255
        assert (np.abs(copy - plain).mean(axis=(1, 2, 3)) > 0.5).all()
        # Still the same image: most copies are nearer to their own original than to any other.
        distance = np.abs(copy[:, None] - plain[None]).mean(axis=(2, 3, 4))
        assert np.mean(distance.argmin(1) == np.arange(count)) > 0.6
    assert np.abs(first - second).mean() > 1


def test_view_seeds_differ() -> None:
    seeds = {
        tuple(view_seed(seed, digest, view)) for seed in (0, 1) for digest in ("aa", "ab") for view in (1, 2)
    }
    assert len(seeds) == 8
