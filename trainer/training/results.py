"""How good a trained network is on each split that it is judged by: measured as it will be served."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import ImageExamples, Splits
from trainer.model import find_backbone, logits_per_class, loss_function
from trainer.training.distribution import Devices, Forward
from trainer.training.feed import Examples
from trainer.training.loop import compute_logits
from trainer.training.metrics import Metrics, SplitResult, measure_logits
from trainer.training.phases import Plan


@dataclasses.dataclass(frozen=True)
class MeasuredSplit:
    """One split's figures, and what was said of each of its images."""

    metrics: Metrics
    result: SplitResult


def measure_splits(
    config: TrainConfig,
    plan: Plan,
    exported: keras.Model,
    splits: Splits,
    image_size_px: int,
    devices: Devices,
) -> dict[str, MeasuredSplit]:
    """Measure what is exported on every split but the one that it was trained on.

    In float32 the last phase's model gives the logits from the stored activations; otherwise the exported
    network, which computes in float32, looks at the images.
    """
    judging = [split for split in splits if split != "train"]
    examples: Mapping[str, Examples] = plan.examples
    forward = Forward(plan.phases[-1].model, devices)
    if config.precision != "float32":
        backbone = find_backbone(config.backbone)
        forward = Forward(exported, devices)
        examples = {
            split: ImageExamples(splits[split], backbone, image_size_px, resize_filter=config.resize_filter)
            for split in judging
        }
    loss = loss_function(config.class_mode, len(splits["train"].classes))
    batch_size = config.batch_size * devices.local_replicas
    measured = {}
    for split in judging:
        (logits,) = compute_logits(forward, examples[split], batch_size, devices)
        truth = examples[split].labels
        metrics = measure_logits(logits, truth, loss)
        probabilities = tf.nn.softmax(logits_per_class(logits)).numpy()
        images = splits[split]
        measured[split] = MeasuredSplit(
            metrics,
            SplitResult(split, images.classes, images.paths, truth, probabilities, loss=metrics.loss),
        )
    return measured
