import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_saved_model
from tests.trainer.export.conftest import Exported
from trainer.errors import ConfigError, DataError, StorageError
from trainer.export.published_version import PublishedVersion

CARD = Path("assets.extra", "model_card.json")


@pytest.fixture(scope="module")
def version(exported: Exported) -> PublishedVersion:
    return PublishedVersion.open(exported.path)


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """A version that a test may damage, as the only one of its model."""
    return Path(shutil.copytree(exported.path, tmp_path / "tiny" / "1"))


def test_batches_do_not_change_the_predictions(version: PublishedVersion, exported: Exported) -> None:
    paths = exported.examples.images.paths
    counts: list[int] = []
    logits, probabilities = version.predict_files(paths, on_images=counts.append)
    assert counts == [32, 28]
    assert logits.shape == (60, 6)
    assert logits.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    loaded = tf.saved_model.load(str(exported.path))
    encoded_images = loaded.signatures["encoded_images"]
    for index in (0, 31, 32, 59):
        alone = encoded_images(encoded=tf.constant([paths[index].read_bytes()]))
        np.testing.assert_allclose(logits[index], alone["logits"][0], rtol=1e-4, atol=1e-5)


def test_no_files_give_no_predictions(version: PublishedVersion) -> None:
    logits, probabilities = version.predict_files([])
    assert logits.shape == probabilities.shape == (0, 6)


def test_name_number_and_labels_come_from_card_and_directory(version: PublishedVersion) -> None:
    assert (version.name, version.number) == ("tiny", 1)
    assert version.labels == ("fish", "flower", "house", "moon", "sun", "tree")


def test_a_models_directory_means_its_newest_version(copy: Path) -> None:
    """10 is newer than 9. A file whose name is a number and an unfinished version do not count."""
    for number in ("9", "10", ".staging-11"):
        shutil.copytree(copy, copy.parent / number)
    (copy.parent / "12").write_text("not a directory")
    newest = PublishedVersion.open(copy.parent)
    assert (newest.path, newest.number) == (copy.parent / "10", 10)


def test_a_copy_under_another_name_has_its_cards_number(copy: Path) -> None:
    moved = copy.rename(copy.parent / "candidate")
    assert PublishedVersion.open(moved).number == 1


def test_a_missing_image_is_a_data_error_that_names_it(version: PublishedVersion, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg.*No such file"):
        version.predict_files([tmp_path / "gone.jpg"])


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_refuses_a_path_that_is_not_a_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"/{name}: (No such file|Not a directory)"):
        PublishedVersion.open(tmp_path / name)


def test_refuses_a_directory_without_a_version(tmp_path: Path) -> None:
    (tmp_path / ".runs").mkdir()
    with pytest.raises(ConfigError, match="Received: .*saved_model"):
        PublishedVersion.open(tmp_path)


def no_card(version: Path) -> None:
    (version / CARD).unlink()


def card_of(**changes: Any) -> Callable[[Path], None]:
    def change(version: Path) -> None:
        card = json.loads((version / CARD).read_text(encoding="utf-8"))
        merged = {key: value for key, value in {**card, **changes}.items() if value is not None}
        (version / CARD).write_text(json.dumps(merged))

    return change


def card_is(text: str) -> Callable[[Path], None]:
    def change(version: Path) -> None:
        (version / CARD).write_text(text)

    return change


def other_model(version: Path) -> None:
    """Another tool's SavedModel, with one of our cards."""
    card = (version / CARD).read_text(encoding="utf-8")
    shutil.rmtree(version)
    tiny_saved_model(version, 0.5)
    (version / CARD).parent.mkdir(exist_ok=True)
    (version / CARD).write_text(card, encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        pytest.param(no_card, "assets.extra/model_card.json", id="no card"),
        pytest.param(card_is("{"), "JSON", id="not JSON"),
        pytest.param(card_is("[]"), "schema version None", id="not an object"),
        pytest.param(card_of(schema_version=2), "schema version 2", id="newer schema"),
        pytest.param(card_of(labels=None), "'labels'", id="no labels"),
        pytest.param(
            card_of(labels=["a", "b"]),
            "[None, 6] for 2 labels",
            id="other labels",
        ),
        pytest.param(other_model, "serving_default", id="other signatures"),
    ],
)
def test_refuses_a_version_that_the_trainer_did_not_publish(
    copy: Path, damage: Callable[[Path], None], received: str
) -> None:
    damage(copy)
    with pytest.raises(ConfigError, match=rf"Received: .*{re.escape(received)}") as caught:
        PublishedVersion.open(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def no_graph(version: Path) -> None:
    (version / "saved_model.pb").unlink()


def cut(name: str, share: float) -> Callable[[Path], None]:
    def shorten(version: Path) -> None:
        (file,) = version.glob(name)
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * share)])

    return shorten


def no_variables(version: Path) -> None:
    shutil.rmtree(version / "variables")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(no_graph, id="no graph"),
        pytest.param(cut("saved_model.pb", 0), id="empty graph"),
        pytest.param(cut("saved_model.pb", 0.5), id="half a graph"),
        pytest.param(cut("saved_model.pb", 0.99), id="most of a graph"),
        pytest.param(no_variables, id="no variables"),
        pytest.param(cut("variables/*.index", 0.5), id="half an index"),
        pytest.param(cut("variables/*.data*", 0.5), id="half the variables"),
    ],
)
def test_an_incomplete_saved_model_is_an_error_of_one_line(
    copy: Path, damage: Callable[[Path], None]
) -> None:
    damage(copy)
    with pytest.raises(StorageError, match="Received: ") as caught:
        PublishedVersion.open(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
