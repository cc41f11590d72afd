"""How good a trained network is on each split that it is judged by: measured as it will be served."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import tensorflow as tf

from trainer import backbones, classifier, evaluation, loop
from trainer.config import TrainConfig
from trainer.distribution import Devices, Forward
from trainer.evaluation import Metrics, SplitResult
from trainer.feed import Examples
from trainer.images import Splits
from trainer.phases import Plan
from trainer.pipeline import ImageExamples


@dataclasses.dataclass(frozen=True)
class Measured:
    """One split's figures, and what was said of each of its images."""

    metrics: Metrics
    result: SplitResult


def measure(
    config: TrainConfig,
    plan: Plan,
    exported: keras.Model,
    splits: Splits,
    image_size_px: int,
    devices: Devices,
) -> dict[str, Measured]:
    """Measure what is exported on every split but the one that it was trained on.

    In float32 the last phase's model gives the logits from the stored activations; otherwise the exported
    network, which computes in float32, looks at the images.
    """
    judging = [split for split in splits if split != "train"]
    examples: Mapping[str, Examples] = plan.examples
    forward = Forward(plan.phases[-1].model, devices)
    if config.precision != "float32":
        backbone = backbones.find(config.backbone)
        forward = Forward(exported, devices)
        examples = {
            split: ImageExamples(splits[split], backbone, image_size_px, resize_filter=config.resize_filter)
            for split in judging
        }
    loss = classifier.loss_function(config.class_mode, len(splits["train"].classes))
    batch_size = config.batch_size * devices.local_replicas
    measured = {}
    for split in judging:
        (logits,) = loop.logits_of(forward, examples[split], batch_size, devices)
        truth = examples[split].labels
        metrics = evaluation.measure(logits, truth, loss)
        probabilities = tf.nn.softmax(classifier.logits_per_class(logits)).numpy()
        images = splits[split]
        measured[split] = Measured(
            metrics,
            SplitResult(split, images.classes, images.paths, truth, probabilities, loss=metrics.loss),
        )
    return measured
