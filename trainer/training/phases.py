"""From settings to phases: which variables are trained, on which examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from trainer.config import TrainConfig
from trainer.data import ImageSet, balanced_class_weights
from trainer.model import Architecture, Classifier, find_backbone, loss_function
from trainer.training.feed import Examples
from trainer.training.inputs import TrainingInputs
from trainer.training.loop import Phase
from trainer.training.step import StepOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """The phases of a run, and the examples to measure its result on.

    Attributes:
      phases: in order.
      examples: of each split, as the last phase's model reads them.
    """

    phases: Sequence[Phase]
    examples: Mapping[str, Examples]

    @property
    def image_counts(self) -> dict[str, int]:
        """Training examples that each phase reads, by its name."""
        return {phase.name: phase.epochs * len(phase.train.labels) for phase in self.phases}


def architecture_of(config: TrainConfig, class_count: int) -> Architecture:
    """Return what the settings say of the network.

    Raises:
      ConfigError: the backbone is unknown.
    """
    backbone = find_backbone(config.backbone)
    return Architecture(
        backbone=backbone,
        image_size_px=config.image_size or backbone.native_size_px,
        weights=config.weights,
        precision=config.precision,
        class_count=class_count,
        class_mode=config.class_mode,
        hidden_units=config.hidden_units,
        dropout=config.dropout,
        fine_tune_from=config.fine_tune_from,
        seed=config.seed,
    )


def step_options(config: TrainConfig, train: ImageSet) -> StepOptions:
    """Return what the settings say of every training step."""
    class_count = len(train.classes)
    balanced = config.class_weight == "balanced"
    return StepOptions(
        loss=loss_function(config.class_mode, class_count),
        batch_size=config.batch_size,
        seed=config.seed,
        class_weights=balanced_class_weights(train) if balanced else [1.0] * class_count,
        loss_scaling=config.precision == "mixed_float16",
        xla=config.xla,
    )


def plan_training(config: TrainConfig, network: Classifier, inputs: TrainingInputs, replicas: int) -> Plan:
    """Plan the head on its inputs and then, with --fine-tune-from, the backbone's last layers on theirs.

    Source of --scale-learning-rate: Goyal et al., https://arxiv.org/abs/1706.02677.
    """
    scale = replicas if config.scale_learning_rate else 1
    head = Phase(
        name="head",
        model=network.head if inputs.are_features else network.whole,
        variables=network.head.trainable_variables,
        train=inputs.head["train"],
        validation=inputs.head["validation"],
        learning_rate=config.learning_rate * scale,
        epochs=config.epochs,
    )
    if network.tuned is None:
        return Plan([head], inputs.head)
    fine_tune = Phase(
        name="fine-tune",
        model=network.tuned if inputs.are_features else network.whole,
        variables=network.tuned.trainable_variables,
        train=inputs.fine_tune["train"],
        validation=inputs.fine_tune["validation"],
        learning_rate=config.fine_tune_learning_rate * scale,
        epochs=config.fine_tune_epochs,
    )
    return Plan([head, fine_tune], inputs.fine_tune)
