import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.export.conftest import Exported
from trainer.export.model_card import CARD_FILE_NAME


@pytest.fixture(scope="module")
def signatures(exported: Exported) -> Any:
    loaded = tf.saved_model.load(str(exported.path))
    yield loaded.signatures
    del loaded  # signatures alone do not keep their variables alive


def files(exported: Exported, count: int) -> list[bytes]:
    return [path.read_bytes() for path in exported.examples.images.paths[:count]]


def test_an_undecodable_image_gets_nan_and_does_not_change_the_others(
    signatures: Any, exported: Exported
) -> None:
    first, second = files(exported, 2)
    alone = signatures["encoded_images"](encoded=tf.constant([first, second]))
    mixed = signatures["encoded_images"](encoded=tf.constant([first, b"\xff\xd8\xff cut off", b"", second]))
    for name in ("logits", "probabilities"):
        assert np.isnan(mixed[name][1:3]).all()
        np.testing.assert_allclose(mixed[name].numpy()[[0, 3]], alone[name], rtol=1e-4, atol=1e-5)


def test_every_row_of_an_answer_names_the_card_to_read_it_with(signatures: Any, exported: Exported) -> None:
    card = json.loads((exported.path / "assets.extra" / CARD_FILE_NAME).read_text(encoding="utf-8"))
    (first,) = files(exported, 1)
    by_encoded = signatures["encoded_images"](encoded=tf.constant([first, b"cut off"]))
    by_images = signatures["serving_default"](images=tf.zeros((2, 32, 32, 3)))
    for outputs in (by_encoded, by_images):
        assert outputs["model_id"].numpy().tolist() == [card["model_id"].encode()] * 2
    assert by_encoded["decoded"].numpy().tolist() == [True, False]


def test_a_call_in_which_no_image_can_be_decoded_is_refused(signatures: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["encoded_images"](encoded=tf.constant([b"", b"\xff\xd8\xff cut off"]))


def test_serving_default_refuses_another_image_size(signatures: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["serving_default"](images=tf.zeros((1, 48, 48, 3)))


def test_describe_returns_one_card_for_each_row(signatures: Any, exported: Exported) -> None:
    card = (exported.path / "assets.extra" / CARD_FILE_NAME).read_text(encoding="utf-8")
    (described,) = signatures["describe"](query=tf.constant([b"card"] * 3)).values()
    assert [json.loads(one) for one in described.numpy()] == [json.loads(card)] * 3


def test_probabilities_are_the_softmax_of_the_logits(signatures: Any, exported: Exported) -> None:
    outputs = signatures["encoded_images"](encoded=tf.constant(files(exported, 3)))
    assert set(outputs) == {"logits", "probabilities", "model_id", "decoded"}
    assert outputs["logits"].dtype == outputs["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(outputs["probabilities"], tf.nn.softmax(outputs["logits"]), atol=1e-6)


def test_serving_default_computes_what_the_network_computes(
    signatures: Any, exported: Exported, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).uniform(-100, 100, (2, 32, 32, 3)).astype(np.float32)
    served = signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(served["logits"], exported.network(images, training=False), atol=1e-4)
