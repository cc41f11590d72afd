import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import undecodable_picture
from trainer.data.folders import scan_split
from trainer.data.pipeline import ImageExamples
from trainer.errors import StoppedError, StorageError
from trainer.model.backbones import find_backbone
from trainer.runtime.stopping import Stop
from trainer.training.devices import Devices, Rows
from trainer.training.distribution import mirrored_devices
from trainer.training.features import extraction
from trainer.training.features.cache import FeatureCache, FeatureExamples
from trainer.training.features.extraction import Extraction
from trainer.training.forward import Forward


class Counting(Forward):
    """Counts the images of each step."""

    def __init__(self, model: keras.Model, devices: Devices) -> None:
        super().__init__(model, devices)
        self.steps: list[int] = []

    def stream(self, batches: Iterable[Rows]) -> Iterator[tuple[np.ndarray, ...]]:
        for outputs in super().stream(batches):
            self.steps.append(len(outputs[0]))
            yield outputs


@pytest.fixture
def forward() -> Counting:
    """Images → [their mean colour, the image itself, made smaller]."""
    devices = mirrored_devices(2)
    with devices.strategy.scope():
        inputs = keras.Input((16, 16, 3))
        mean = keras.layers.GlobalAveragePooling2D()(inputs)
        model = keras.Model(inputs, [mean, keras.layers.AveragePooling2D(4)(inputs)])
    return Counting(model, devices)


def caches(directory: Path) -> list[FeatureCache]:
    return [
        FeatureCache(directory, {"output": name}, shape, "float32")
        for name, shape in (("mean", (3,)), ("small", (4, 4, 3)))
    ]


def examples(tree: Path, views: int = 1) -> ImageExamples:
    image_set = scan_split(tree)
    return ImageExamples(image_set, find_backbone("mobilenetv3small"), 16, views=views)


def extractor(forward: Counting, stop: Stop | None = None, batch_size: int | None = 8) -> Extraction:
    return Extraction(lambda: forward, mirrored_devices(2), batch_size, stop or Stop())


def array(stored: FeatureExamples) -> np.ndarray:
    """Return the features of a set that is small enough to be in memory."""
    assert isinstance(stored.features, np.ndarray)
    return stored.features


@pytest.fixture
def tree(tmp_path: Path, image_tree: Path) -> Path:
    return shutil.copytree(image_tree / "train", tmp_path / "images")


def test_what_is_stored_is_what_the_network_gives(tmp_path: Path, tree: Path, forward: Counting) -> None:
    these = examples(tree, views=3)
    mean, small = extractor(forward).store(these, caches(tmp_path), "train")
    (batch, labels), *rest = these.batches(np.arange(3 * 48), 3 * 48)
    assert not rest
    np.testing.assert_allclose(array(mean), batch.numpy().mean(axis=(1, 2)), rtol=1e-5)
    assert array(small).shape == (144, 4, 4, 3)
    np.testing.assert_array_equal(mean.labels, labels.numpy()[:48])
    assert mean.views == small.views == 3


def test_each_image_runs_once_and_a_changed_one_alone_runs_again(
    tmp_path: Path, tree: Path, forward: Counting
) -> None:
    extractor(forward).store(examples(tree), caches(tmp_path), "train")
    assert sum(forward.steps) == 48
    forward.steps.clear()
    shutil.copy(tree / "sun" / "000.jpg", tree / "moon" / "same-bytes.jpg")  # known by its bytes
    (tree / "sun" / "001.jpg").rename(tree / "sun" / "other-name.jpg")
    changed = tree / "fish" / "000.jpg"
    changed.write_bytes(changed.read_bytes() + b"\0")
    mean, _ = extractor(forward).store(examples(tree), caches(tmp_path), "train")
    assert sum(forward.steps) == 1
    assert len(array(mean)) == 49


def test_a_row_that_one_cache_lacks_is_computed_for_all(
    tmp_path: Path, tree: Path, forward: Counting
) -> None:
    first, second = caches(tmp_path)
    extractor(forward).store(examples(tree), [first, second], "train")
    shutil.rmtree(second.directory)
    forward.steps.clear()
    mean, small = extractor(forward).store(examples(tree), caches(tmp_path), "train")
    assert sum(forward.steps) == 48
    assert len(array(mean)) == len(array(small)) == 48


@dataclasses.dataclass(frozen=True)
class OneOfTwoWorkers(Devices):
    """The first of two workers; the other one never stores its shard."""

    def worker_shard(self, rows: np.ndarray) -> np.ndarray:
        return rows[: len(rows) // 2]


def test_a_worker_computes_its_shard_only(tmp_path: Path, tree: Path, forward: Counting) -> None:
    devices = OneOfTwoWorkers(mirrored_devices(2).strategy)
    extraction = Extraction(lambda: forward, devices, 8, Stop())
    with pytest.raises(StorageError, match=r"24 of 48.*--cache-dir"):
        extraction.store(examples(tree), caches(tmp_path), "train")
    assert sum(forward.steps) == extraction.images == 24


def test_copies_are_stored_beside_the_images_and_another_seed_makes_others(
    tmp_path: Path, tree: Path, forward: Counting
) -> None:
    plain, _ = extractor(forward).store(examples(tree), caches(tmp_path), "train")
    forward.steps.clear()
    views, _ = extractor(forward).store(examples(tree, views=2), caches(tmp_path), "train")
    assert sum(forward.steps) == 48  # the images themselves are known
    np.testing.assert_array_equal(array(views)[:48], array(plain))
    forward.steps.clear()
    reseeded = dataclasses.replace(examples(tree, views=2), seed=1)
    other, _ = extractor(forward).store(reseeded, caches(tmp_path), "train")
    assert sum(forward.steps) == 48
    assert not np.allclose(array(other)[48:], array(views)[48:])


def test_a_stop_keeps_what_is_done(tmp_path: Path, tree: Path, forward: Counting) -> None:
    stop = Stop()
    stop.requested = True
    with pytest.raises(StoppedError):
        extractor(forward, stop).store(examples(tree), caches(tmp_path), "train")
    extractor(forward).store(examples(tree), caches(tmp_path), "train")
    assert forward.steps[0] == 8
    assert sum(forward.steps) == 48


def test_an_undecodable_image_costs_no_other_one(tmp_path: Path, tree: Path, forward: Counting) -> None:
    (tree / "tree" / "007.jpg").write_bytes(undecodable_picture())
    with pytest.raises(tf.errors.InvalidArgumentError):
        extractor(forward).store(examples(tree), caches(tmp_path), "train")
    before = sum(forward.steps)
    (tree / "tree" / "007.jpg").unlink()
    extractor(forward).store(examples(tree), caches(tmp_path), "train")
    assert before >= 32
    assert sum(forward.steps) == 47


def test_the_batch_size_is_found_by_a_probe_whose_images_count(
    tmp_path: Path, tree: Path, forward: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "_WORTH_PROBING", 40)
    monkeypatch.setattr(extraction, "_PROBED_IMAGES", 8)
    monkeypatch.setattr(extraction, "_PROBED_SIZES", (2, 4))
    mean, _ = extractor(forward, batch_size=None).store(examples(tree), caches(tmp_path), "train")
    assert forward.steps[:7] == [8, 2, 2, 2, 2, 4, 4]
    assert forward.steps[7] in (2, 4)
    assert sum(forward.steps) == len(array(mean)) == 48


def test_space_is_checked_before_the_first_image(
    tmp_path: Path, tree: Path, forward: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainer.runtime.storage.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 100)
    )
    with pytest.raises(StorageError, match=r"GB free"):
        extractor(forward).store(examples(tree), caches(tmp_path), "train")
    assert forward.steps == []


def test_weights_decide_the_fingerprint() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    before = extraction.weights_fingerprint(model)
    assert extraction.weights_fingerprint(keras.models.clone_model(model)) != before
    model.layers[0].bias.assign([0.0, 1e-7])
    assert extraction.weights_fingerprint(model) != before
