import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.export.model_card import ModelCard, package_version
from trainer.model import find_backbone


def test_the_card_holds_labels_input_and_package_versions() -> None:
    card = ModelCard(
        name="m",
        labels=("b", "a", "été"),
        image_size_px=96,
        backbone=find_backbone("vgg16"),
        weights="none",
        data={},
        metrics={},
        config={"data": Path("/data")},
        resize_filter="nearest",
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
    assert written["config"] == {"data": "/data"}
    versions = {name: written["packages"][name] for name in ("tensorflow", "keras", "numpy")}
    assert versions == {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}


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
