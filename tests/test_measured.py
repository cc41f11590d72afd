"""The whole way on real photographs with real ImageNet weights: what docs/benchmarks.md states.

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

from serving_client import Client
from tests.conftest import serving

pytestmark = pytest.mark.measured


def given(variable: str) -> Path:
    path = os.environ.get(variable)
    if not path or not Path(path).exists():
        pytest.skip(f"{variable} names no file or folder")
    return Path(path).resolve()


def test_xception_reaches_0_79_and_the_client_measures_exactly_the_same(tmp_path: Path) -> None:
    data, weights = given("CLOTHING_DATA"), given("XCEPTION_WEIGHTS")
    subprocess.run(
        [
            *(sys.executable, "-m", "trainer", "train", "--data", data, "--weights", weights),
            *("--image-size", "150", "--epochs", "10", "--learning-rate", "0.001"),
            *("--model-dir", tmp_path, "--name", "clothing"),
        ],
        check=True,
    )
    card = json.loads((tmp_path / "clothing/1/assets.extra/model_card.json").read_text())
    measured = card["metrics"]["validation"]
    print(f"\ntrainer: {measured['correct']} of {measured['count']} ({measured['accuracy']:.4f})")
    assert measured["accuracy"] >= 0.79

    paths = sorted(data.glob("validation/*/*"))
    probabilities = {}
    with (
        serving("clothing", tmp_path / "clothing") as (address, _),
        Client(address, model="clothing", timeout_s=120) as client,
    ):
        for via in ("images", "encoded"):
            predictions = client.classify(paths, top_k=len(card["labels"]), via=via)
            correct = sum(p.label == path.parent.name for p, path in zip(predictions, paths, strict=True))
            print(f"client, via {via}: {correct} of {len(paths)}")
            assert correct == measured["correct"]
            probabilities[via] = np.array(
                [
                    [dict((s.label, s.probability) for s in p.scores)[k] for k in card["labels"]]
                    for p in predictions
                ]
            )
    difference = np.abs(probabilities["images"] - probabilities["encoded"]).max()
    print(f"largest difference of a probability between the two ways: {difference:.1e}")
    assert difference <= 1e-4
    assert (probabilities["images"].argmax(1) == probabilities["encoded"].argmax(1)).all()
