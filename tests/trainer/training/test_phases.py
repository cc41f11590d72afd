import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from trainer.config import TrainConfig
from trainer.model.classifier import Classifier
from trainer.training.features.cache import FeatureExamples
from trainer.training.inputs import TrainingInputs
from trainer.training.phases import plan_training

CONFIG = TrainConfig(data=Path("d"), model_dir=Path("m"), learning_rate=0.1, fine_tune_learning_rate=0.01)
SPLITS = ("train", "validation")


def dense(name: str) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name=name)


def examples() -> dict[str, FeatureExamples]:
    return {split: FeatureExamples(np.zeros((5, 3), np.float32), np.zeros(5, np.int32)) for split in SPLITS}


def network(*, tuned: bool) -> Classifier:
    return Classifier(dense("frozen"), dense("head"), dense("tuned") if tuned else None, dense("whole"))


@pytest.mark.parametrize(("scale", "head", "fine_tune"), [(False, 0.1, 0.01), (True, 0.4, 0.04)])
def test_the_learning_rates_grow_with_the_replicas_if_asked_to(
    scale: bool, head: float, fine_tune: float
) -> None:
    config = dataclasses.replace(CONFIG, scale_learning_rate=scale)
    plan = plan_training(
        config, network(tuned=True), TrainingInputs(examples(), examples(), True), replicas=4
    )
    assert [phase.learning_rate for phase in plan.phases] == pytest.approx([head, fine_tune])


def test_each_phase_trains_its_part_on_its_inputs() -> None:
    parts = network(tuned=True)
    inputs = TrainingInputs(examples(), examples(), are_features=True)
    head, fine_tune = (plan := plan_training(CONFIG, parts, inputs, replicas=1)).phases
    assert (head.model, fine_tune.model) == (parts.head, parts.tuned)
    assert (head.train, fine_tune.train) == (inputs.head["train"], inputs.fine_tune["train"])
    assert plan.examples is inputs.fine_tune
    assert plan.image_counts == {"head": 10 * 5, "fine-tune": 10 * 5}


def test_images_go_through_the_whole_network() -> None:
    parts = network(tuned=True)
    plan = plan_training(
        CONFIG, parts, TrainingInputs(examples(), examples(), are_features=False), replicas=1
    )
    assert [phase.model for phase in plan.phases] == [parts.whole, parts.whole]
    assert plan.phases[0].variables == parts.head.trainable_variables
