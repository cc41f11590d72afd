"""What the trained layers read: the stored output of the frozen layers, or without the cache the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import DECODING, ImageExamples, Splits, read_every_image
from trainer.model import Classifier, find_backbone, fold_batch_norm
from trainer.runtime.stopping import Stop
from trainer.training.devices import Devices
from trainer.training.features.cache import FeatureCache
from trainer.training.features.extraction import Extraction, weights_fingerprint
from trainer.training.feed import Examples
from trainer.training.forward import Forward


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """The examples of each split, as the trained layers read them.

    Attributes:
      head: what the head reads: pooled features, or images.
      fine_tune: what the tuned layers read: activations, or images.
      are_features: whether these are stored features and not images.
      computed: images and copies that went through the frozen layers on this worker.
    """

    head: Mapping[str, Examples]
    fine_tune: Mapping[str, Examples]
    are_features: bool
    computed: int = 0


def prepare_inputs(
    config: TrainConfig, network: Classifier, splits: Splits, image_size_px: int, devices: Devices, stop: Stop
) -> TrainingInputs:
    """Decode every image and, with the feature cache, store the frozen layers' output for it.

    With a large set this takes most of a run's time. What is stored already is not computed again.

    Raises:
      tf.errors.InvalidArgumentError: an image cannot be decoded (`find_undecodable` names it).
      StorageError: the cache cannot store the activations.
      StoppedError: SIGTERM came; complete shards are stored.
    """
    images = {
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
        read_every_image(images.values())
        return TrainingInputs(images, images, are_features=False)
    # On a CPU a probe finds the fastest batch size; a GPU is fast with the training's.
    on_cpu = not tf.config.list_physical_devices("GPU") or config.cpu_replicas is not None
    batch_size = None if on_cpu else config.batch_size * devices.local_replicas

    def make_forward() -> Forward:
        with devices.strategy.scope():
            return Forward(fold_batch_norm(network.frozen), devices, xla=config.xla)

    extraction = Extraction(make_forward, devices, batch_size, stop)
    caches = _Caches(config, network.frozen, image_size_px)
    stored = {
        split: extraction.store(examples, caches.of(split), split) for split, examples in images.items()
    }
    return TrainingInputs(
        head={split: outputs[-1] for split, outputs in stored.items()},
        fine_tune={split: outputs[0] for split, outputs in stored.items()},
        are_features=True,
        computed=extraction.images,
    )


def cache_directory(config: TrainConfig) -> Path:
    """Return where the feature cache is kept."""
    return config.cache_dir or config.model_dir / ".feature_cache"


class _Caches:
    """A cache for each output of the frozen network, in the dtype in which a split's rows are stored."""

    def __init__(self, config: TrainConfig, frozen: keras.Model, image_size_px: int) -> None:
        self._directory = cache_directory(config)
        self._train_dtype = config.cache_dtype
        self._content = {
            "backbone": config.backbone.lower(),
            "weights": weights_fingerprint(frozen),
            "image_size_px": image_size_px,
            "resize_filter": config.resize_filter,
            "decoding": DECODING,
            "precision": config.precision,
        }
        names = [config.fine_tune_from, "pooled"] if config.fine_tune_from else ["pooled"]
        self._shapes = {name: output.shape[1:] for name, output in zip(names, frozen.outputs, strict=True)}
        self._opened: dict[tuple[str, str], FeatureCache] = {}

    def of(self, split: str) -> list[FeatureCache]:
        """Return one cache for each output."""
        return [self._open(name, self._dtype(name, split)) for name in self._shapes]

    def _dtype(self, name: str, split: str) -> str:
        # Evaluation uses unrounded rows, so that the metrics are those of the exported network.
        if split != "train":
            return "float32"
        return self._train_dtype or ("float32" if name == "pooled" else "float16")

    def _open(self, name: str, dtype: str) -> FeatureCache:
        if (name, dtype) not in self._opened:
            content = {**self._content, "output": name}
            self._opened[name, dtype] = FeatureCache(self._directory, content, self._shapes[name], dtype)
        return self._opened[name, dtype]
