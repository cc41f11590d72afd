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
from trainer import run
from trainer.errors import ConfigError, DataError, StorageError
from trainer.export.published import PublishedVersion

CARD = Path("assets.extra", "model_card.json")


@pytest.fixture(scope="session")
def exported(published: run.Published) -> PublishedVersion:
    return PublishedVersion.open(published.path)


@pytest.fixture
def copy(published: run.Published, tmp_path: Path) -> Path:
    """A version that a test may spoil, as the only one of its model."""
    return Path(shutil.copytree(published.path, tmp_path / "tiny" / "1"))


def photos(image_tree: Path) -> list[Path]:
    return sorted(image_tree.glob("validation/*/*.jpg"))


def test_it_answers_as_the_signature_does_whatever_the_batches(
    exported: PublishedVersion, published: run.Published, image_tree: Path
) -> None:
    paths = photos(image_tree)
    counts: list[int] = []
    logits, probabilities = exported.answer(paths, on_images=counts.append)
    assert counts == [32, 28]
    assert logits.shape == (60, 6)
    assert logits.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    serve = tf.saved_model.load(str(published.path)).signatures["encoded_images"]
    for index in (0, 31, 32, 59):
        alone = serve(encoded=tf.constant([paths[index].read_bytes()]))
        np.testing.assert_allclose(logits[index], alone["logits"][0], rtol=1e-4, atol=1e-5)


def test_no_images_have_no_answers(exported: PublishedVersion) -> None:
    logits, probabilities = exported.answer([])
    assert logits.shape == probabilities.shape == (0, 6)


def test_it_knows_its_name_number_and_labels(exported: PublishedVersion) -> None:
    assert (exported.name, exported.number) == ("tiny", 1)
    assert exported.labels == ("fish", "flower", "house", "moon", "sun", "tree")


def test_a_models_directory_means_its_newest_version(copy: Path) -> None:
    """10 is newer than 9; a file with a number for its name and a version being written are none."""
    for number in ("9", "10", ".staging-11"):
        shutil.copytree(copy, copy.parent / number)
    (copy.parent / "12").write_text("no directory")
    newest = PublishedVersion.open(copy.parent)
    assert (newest.path, newest.number) == (copy.parent / "10", 10)


def test_a_copy_under_another_name_is_known_by_its_card(copy: Path) -> None:
    moved = copy.rename(copy.parent / "candidate")
    assert PublishedVersion.open(moved).number == 1


def test_a_file_that_is_gone_is_a_data_error_that_names_it(
    exported: PublishedVersion, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg cannot be read: No such file"):
        exported.answer([tmp_path / "gone.jpg"])


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"Received: .*/{name}: (No such file|Not a directory)"):
        PublishedVersion.open(tmp_path / name)


def test_a_directory_without_a_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".runs").mkdir()
    with pytest.raises(ConfigError, match=r"neither saved_model\.pb nor a folder with a number"):
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
    """A SavedModel of another make, with a card of ours."""
    card = (version / CARD).read_text(encoding="utf-8")
    shutil.rmtree(version)
    tiny_saved_model(version, 0.5)
    (version / CARD).parent.mkdir(exist_ok=True)
    (version / CARD).write_text(card, encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "received"),
    [
        pytest.param(no_card, "no assets.extra/model_card.json", id="no card"),
        pytest.param(card_is("{"), "a model card that is no JSON", id="no JSON"),
        pytest.param(card_is("[]"), "a model card of schema version None", id="no object"),
        pytest.param(card_of(schema_version=2), "a model card of schema version 2", id="newer schema"),
        pytest.param(card_of(labels=None), "a model card without 'labels'", id="no labels"),
        pytest.param(
            card_of(labels=["a", "b"]),
            "an output 'logits' of shape [None, 6] for 2 labels",
            id="other labels",
        ),
        pytest.param(other_model, "the signatures serving_default", id="other signatures"),
    ],
)
def test_a_version_of_another_make_is_refused(
    copy: Path, spoil: Callable[[Path], None], received: str
) -> None:
    spoil(copy)
    with pytest.raises(ConfigError, match=re.escape(f"Received: {received}")) as caught:
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
    "spoil",
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
def test_a_broken_saved_model_is_one_line(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copy)
    with pytest.raises(StorageError, match="must load as it was published. Received: ") as caught:
        PublishedVersion.open(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
