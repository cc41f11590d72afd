"""What is trained on what: the head on pooled features, then, perhaps, the last layers on activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import ImageExamples, ImageSet, Splits, balanced_class_weights, read_every_image
from trainer.model import Classifier, find_backbone, fold_batch_norm, loss_function
from trainer.runtime.stopping import Stop
from trainer.training.distribution import Devices, Forward
from trainer.training.features.cache import FeatureCache
from trainer.training.features.extraction import Extraction, weights_fingerprint
from trainer.training.feed import Examples
from trainer.training.loop import Phase
from trainer.training.step import StepOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """The phases of a run, and what there is to measure its result on.

    Attributes:
      phases: in order.
      examples: of each split, as the last phase's model takes them.
      extracted: images and copies that went through the frozen layers, on this worker.
    """

    phases: Sequence[Phase]
    examples: Mapping[str, Examples]
    extracted: int = 0


def plan_training(
    config: TrainConfig, network: Classifier, splits: Splits, image_size_px: int, devices: Devices, stop: Stop
) -> Plan:
    """Have every image decoded, and with the feature cache its activations stored, before training begins.

    Raises:
      tf.errors.InvalidArgumentError: an image cannot be decoded (pipeline.undecodable names it).
      StorageError: the cache cannot take the activations.
      StoppedError: SIGTERM came; what is complete is stored.
    """
    pictures = {
        split: ImageExamples(
            image_set,
            find_backbone(config.backbone),
            image_size_px,
            views=1 + (config.augment_views if split == "train" else 0),
            seed=config.seed,
            resize_filter=config.resize_filter,
        )
        for split, image_set in splits.items()
    }
    if not config.feature_cache:
        read_every_image(pictures.values())
        return _phases(config, network, devices, network.whole, network.whole, pictures, pictures)
    on_cpu = not tf.config.list_physical_devices("GPU") or config.cpu_replicas is not None
    batch_size = None if on_cpu else config.batch_size * devices.local_replicas

    def forward() -> Forward:
        with devices.strategy.scope():
            return Forward(fold_batch_norm(network.frozen), devices, xla=config.xla)

    extraction = Extraction(forward, devices, batch_size, stop)
    caches = _Caches(config, network.frozen, image_size_px)
    stored = {split: extraction.store(one, caches.of(split), split) for split, one in pictures.items()}
    pooled = {split: outputs[-1] for split, outputs in stored.items()}
    activations = {split: outputs[0] for split, outputs in stored.items()}
    made = _phases(config, network, devices, network.head, network.tuned, pooled, activations)
    return dataclasses.replace(made, extracted=extraction.images)


def step_options(config: TrainConfig, train: ImageSet) -> StepOptions:
    """Return what is the same in all phases."""
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


def _phases(
    config: TrainConfig,
    network: Classifier,
    devices: Devices,
    head_model: keras.Model,
    tuned_model: keras.Model | None,
    pooled: Mapping[str, Examples],
    activations: Mapping[str, Examples],
) -> Plan:
    # Source of the rule: Goyal et al., https://arxiv.org/abs/1706.02677.
    scale = devices.replicas if config.scale_learning_rate else 1
    head = Phase(
        name="head",
        model=head_model,
        variables=network.head.trainable_variables,
        train=pooled["train"],
        validation=pooled["validation"],
        learning_rate=config.learning_rate * scale,
        epochs=config.epochs,
    )
    if network.tuned is None or tuned_model is None:
        return Plan([head], pooled)
    fine_tune = Phase(
        name="fine-tune",
        model=tuned_model,
        variables=network.tuned.trainable_variables,
        train=activations["train"],
        validation=activations["validation"],
        learning_rate=config.fine_tune_learning_rate * scale,
        epochs=config.fine_tune_epochs,
    )
    return Plan([head, fine_tune], activations)


class _Caches:
    """The cache of each output of the frozen network, in the dtype that a split's rows are stored in."""

    def __init__(self, config: TrainConfig, frozen: keras.Model, image_size_px: int) -> None:
        self._config = config
        self._directory = config.cache_dir or config.model_dir / ".feature_cache"
        self._content = {
            "backbone": config.backbone.lower(),
            "weights": weights_fingerprint(frozen),
            "image_size_px": image_size_px,
            "resize_filter": config.resize_filter,
            "precision": config.precision,
        }
        names = [config.fine_tune_from, "pooled"] if config.fine_tune_from else ["pooled"]
        self._shapes = {name: output.shape[1:] for name, output in zip(names, frozen.outputs, strict=True)}
        self._opened: dict[tuple[str, str], FeatureCache] = {}

    def of(self, split: str) -> list[FeatureCache]:
        """Return one cache for each output."""
        return [self._open(name, self._dtype(name, split)) for name in self._shapes]

    def _dtype(self, name: str, split: str) -> str:
        # What is evaluated is not rounded: the metrics are to be those of the exported network.
        if split != "train":
            return "float32"
        return self._config.cache_dtype or ("float32" if name == "pooled" else "float16")

    def _open(self, name: str, dtype: str) -> FeatureCache:
        if (name, dtype) not in self._opened:
            content = {**self._content, "output": name}
            self._opened[name, dtype] = FeatureCache(self._directory, content, self._shapes[name], dtype)
        return self._opened[name, dtype]
