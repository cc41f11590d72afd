import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.export.model_card import ModelCard, digest_weights, package_version
from trainer.model import find_backbone


def test_the_card_holds_labels_input_and_package_versions() -> None:
    card = ModelCard(
        name="m",
        weights_digest="0",
        labels=("b", "a", "été"),
        image_size_px=96,
        backbone=find_backbone("vgg16"),
        weights="none",
        data={},
        metrics={},
        config={"data": Path("/data")},
        resize_filter="nearest",
        warmup_batch_size=16,
    )
    written = json.loads(card.to_json(7))
    assert (written["schema_version"], written["name"], written["version"]) == (1, "m", 7)
    assert written["labels"] == ["b", "a", "été"]
    assert written["input"] == {
        "height_px": 96,
        "width_px": 96,
        "channels": "RGB",
        "preprocessing": "caffe",
        "resize_filter": "nearest",
        "exif_orientation": True,
    }
    assert written["warmup_batch_size"] == 16
    assert written["config"] == {"data": "/data"}
    versions = {name: written["packages"][name] for name in ("tensorflow", "keras", "numpy")}
    assert versions == {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}


CARD = ModelCard(
    name="m",
    weights_digest="0",
    labels=("a", "b"),
    image_size_px=96,
    backbone=find_backbone("vgg16"),
    weights="none",
    data={},
    metrics={},
    config={},
)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_digest": "1"},
        {"labels": ("b", "a")},
        {"image_size_px": 97},
        {"backbone": find_backbone("xception")},
        {"resize_filter": "nearest"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_content_has_another_model_id(change: dict[str, Any]) -> None:
    assert dataclasses.replace(CARD, **change).model_id != CARD.model_id


def test_the_model_id_does_not_depend_on_name_version_or_run() -> None:
    renamed = dataclasses.replace(CARD, name="n", run_id="r", metrics={"validation": {}})
    ids = {json.loads(card.to_json(version))["model_id"] for version, card in ((1, CARD), (2, renamed))}
    assert ids == {CARD.model_id}
    assert len(CARD.model_id) == 16


def test_the_digest_of_weights_changes_with_any_of_their_values_and_not_with_their_names() -> None:
    networks = [keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]) for _ in range(2)]
    networks[1].set_weights(networks[0].get_weights())
    digests = {digest_weights(network) for network in networks}
    assert len(digests) == 1
    networks[1].layers[0].bias.assign([0, 0, 1e-7])
    assert digest_weights(networks[1]) not in digests


def test_a_distribution_of_another_name_gives_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "made_up_cpu-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-cpu\nVersion: 1.2\n")
    (metadata / "top_level.txt").write_text("made_up\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_version("made_up") == "1.2"
    assert package_version("made_up_otherwise") == "unknown"
