"""Real photographs and ImageNet weights, from training to the client: the figures of docs/benchmarks.md.

make measured CLOTHING_DATA=DIR XCEPTION_WEIGHTS=FILE
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving_client import Client, Prediction
from tests.conftest import serving

pytestmark = pytest.mark.measured


def path_from(variable: str) -> Path:
    """Return the path that an environment variable names, or skip the test."""
    path = os.environ.get(variable, "")
    if not path or not Path(path).exists():
        pytest.skip(f"{variable} must name a file or folder that exists. Received: {path!r}.")
    return Path(path).resolve()


def probabilities(predictions: list[Prediction], labels: list[str]) -> np.ndarray:
    """Return float64 (images, labels)."""
    rows = [{score.label: score.probability for score in one.scores} for one in predictions]
    return np.array([[row[label] for label in labels] for row in rows])


def test_xception_reaches_0_79_and_the_client_gets_the_same_number_right(tmp_path: Path) -> None:
    data, weights = path_from("CLOTHING_DATA"), path_from("XCEPTION_WEIGHTS")
    subprocess.run(
        [
            *(sys.executable, "-m", "trainer", "train", "--data", data, "--weights", weights),
            *("--image-size", "150", "--epochs", "10", "--learning-rate", "0.001"),
            *("--model-dir", tmp_path, "--name", "clothing"),
        ],
        check=True,
    )
    card = json.loads((tmp_path / "clothing/1/assets.extra/model_card.json").read_text())
    validation, labels = card["metrics"]["validation"], card["labels"]
    print(f"\ntrainer: {validation['correct']} of {validation['count']} ({validation['accuracy']:.4f})")
    assert validation["accuracy"] >= 0.79

    paths = sorted(data.glob("validation/*/*"))
    with (
        serving("clothing", tmp_path / "clothing") as (address, _),
        Client(address, model="clothing", timeout_s=120) as client,
    ):
        images = client.classify(paths, top_k=len(labels), via="images")
        encoded = client.classify(paths, top_k=len(labels), via="encoded")
    for via, predictions in (("images", images), ("encoded", encoded)):
        correct = sum(one.label == path.parent.name for one, path in zip(predictions, paths, strict=True))
        print(f"client, via {via}: {correct} of {len(paths)}")
        assert correct == validation["correct"]

    assert [one.label for one in images] == [one.label for one in encoded]
    difference = np.abs(probabilities(images, labels) - probabilities(encoded, labels)).max()
    print(f"largest difference of a probability between the request types: {difference:.1e}")
    assert difference <= 1e-4
