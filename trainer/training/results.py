"""Measure a trained network on each split that it is judged by, as it will be served."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import tensorflow as tf

from trainer.config import ResizeFilter
from trainer.data import ImageExamples, Splits
from trainer.model import Architecture, logits_per_class, loss_function
from trainer.training.devices import Devices
from trainer.training.feed import Examples
from trainer.training.forward import Forward, compute_logits
from trainer.training.metrics import Metrics, SplitResult, measure_logits
from trainer.training.phases import Plan


@dataclasses.dataclass(frozen=True)
class MeasuredSplit:
    """One split's metrics, and the prediction for each of its images."""

    metrics: Metrics
    result: SplitResult


def measure_splits(
    plan: Plan,
    exported: keras.Model,
    splits: Splits,
    architecture: Architecture,
    resize_filter: ResizeFilter,
    batch_size: int,
    devices: Devices,
) -> dict[str, MeasuredSplit]:
    """Measure the network that is exported on every split except the one that it was trained on.

    In float32 the last phase's model gives the same logits from the stored activations, without running the
    frozen layers. In other precisions the exported network, which computes in float32, reads the images.
    """
    judging = [split for split in splits if split != "train"]
    examples: Mapping[str, Examples] = plan.examples
    forward = Forward(plan.phases[-1].model, devices)
    if architecture.precision != "float32":
        forward = Forward(exported, devices)
        examples = {
            split: ImageExamples(
                splits[split], architecture.backbone, architecture.image_size_px, resize_filter=resize_filter
            )
            for split in judging
        }
    loss = loss_function(architecture.class_mode, architecture.class_count)
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
