"""One training run, from a folder of images to a published version: the story, in order."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from trainer import (
    backbones,
    classifier,
    distribution,
    evaluation,
    fitting,
    images,
    pipeline,
    prefix_cache,
    progress,
    report,
    signatures,
    storage,
)
from trainer.classifier import Classifier, Loss
from trainer.config import TrainConfig
from trainer.distribution import Forward
from trainer.errors import ConfigError
from trainer.evaluation import Metrics
from trainer.fitting import Epoch, Examples
from trainer.images import ImageSet
from trainer.model_card import ModelCard
from trainer.pipeline import ImageExamples
from trainer.publishing import ModelDirectory

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Published:
    """What a run leaves behind: the version, and how good its exported weights are on each split."""

    path: Path
    metrics: dict[str, Metrics]
    run_directory: Path


def train(config: TrainConfig) -> Published:
    """Train on the images of `config.data` and publish MODEL_DIR/NAME/VERSION.

    Raises:
      TrainerError: one of its family, before anything is published; trained weights stay in
        MODEL_DIR/NAME/.runs/RUN_ID.
    """
    # 1. Everything that can be refused is refused before hours are spent.
    backbone = backbones.find(config.backbone)
    image_size_px = config.image_size or backbone.native_size_px
    splits = images.scan(config.data, validation_split=config.validation_split, seed=config.seed)
    classes = splits["train"].classes
    _check_class_mode(config, classes)
    model_directory = ModelDirectory(config.model_dir, config.name)
    model_directory.prepare()

    # 2. The network, on every device.
    strategy = distribution.mirrored_strategy(config.cpu_replicas)
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        network = classifier.build(config, backbone, image_size_px, len(classes))
    loss = classifier.loss_function(config.class_mode, len(classes))
    run_directory = model_directory.run_directory(_new_run_id())
    with storage.explaining("The run's files cannot be written", run_directory):
        storage.write_atomically(run_directory / "config.json", config.to_json())
    _log_start(config, splits, image_size_px, strategy)

    # 3. The frozen backbone once per image; then the head, its best epoch kept.
    pictures = {
        split: ImageExamples(image_set, backbone, image_size_px) for split, image_set in splits.items()
    }
    with pipeline.naming_unreadable(*splits.values()):
        if config.prefix_cache:
            trainable = network.head
            examples: Mapping[str, Examples] = _features_of(network, pictures, config, strategy)
        else:
            trainable = network.whole
            examples = pictures
            pipeline.read_once(pictures.values())
        metrics = _fit(trainable, network.head, examples, loss, config, strategy, run_directory)

    # 4. The version, whole or not at all.
    card = ModelCard(
        name=config.name,
        labels=classes,
        image_size_px=image_size_px,
        backbone=backbone,
        weights=Path(config.weights).name,
        data={split: image_set.summary() for split, image_set in splits.items()},
        metrics={split: dataclasses.asdict(measured) for split, measured in metrics.items()},
        config=dataclasses.asdict(config),
    )
    exported = classifier.on_one_device(network.whole)
    version = model_directory.publish(
        card, lambda directory, text: signatures.save(directory, exported, backbone, image_size_px, text)
    )
    return Published(model_directory.path / str(version), metrics, run_directory)


def _check_class_mode(config: TrainConfig, classes: Sequence[str]) -> None:
    if config.class_mode == "binary" and len(classes) != 2:
        raise ConfigError(
            f"--class-mode binary needs exactly two classes. Received: {len(classes)} "
            f"({', '.join(classes)}). Use --class-mode categorical."
        )


def _new_run_id() -> str:
    started = datetime.datetime.now(datetime.timezone.utc)
    return f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def _log_start(
    config: TrainConfig, splits: Mapping[str, ImageSet], image_size_px: int, strategy: tf.distribute.Strategy
) -> None:
    counts = ", ".join(f"{len(image_set)} {split}" for split, image_set in splits.items())
    _log.info(
        "%s, %d px, weights %s; %d classes; images: %s; %d replica(s), global batch %d",
        config.backbone,
        image_size_px,
        config.weights,
        len(splits["train"].classes),
        counts,
        strategy.num_replicas_in_sync,
        config.batch_size * strategy.num_replicas_in_sync,
    )


def _features_of(
    network: Classifier,
    examples: Mapping[str, ImageExamples],
    config: TrainConfig,
    strategy: tf.distribute.Strategy,
) -> dict[str, Examples]:
    started = time.monotonic()
    forward = Forward(network.features, strategy)
    batch_size = config.batch_size * strategy.num_replicas_in_sync
    features: dict[str, Examples] = {
        split: prefix_cache.pooled_features(forward, one, batch_size=batch_size, description=split)
        for split, one in examples.items()
    }
    seconds = time.monotonic() - started
    count = sum(len(one.labels) for one in features.values())
    _log.info("features of %d images in %.1f s (%.0f images/s)", count, seconds, count / seconds)
    return features


def _fit(
    trainable: keras.Model,
    head: keras.Model,
    examples: Mapping[str, Examples],
    loss: Loss,
    config: TrainConfig,
    strategy: tf.distribute.Strategy,
    run_directory: Path,
) -> dict[str, Metrics]:
    """Train, keep history and best weights in the run's directory, and measure those weights.

    Args:
      trainable: the head on stored features, or the whole network on images; what of it is not frozen
        is the head either way, and the head's weights are what is kept.
    """
    history: list[Epoch] = []

    def keep(epoch: Epoch, is_best: bool) -> None:
        history.append(epoch)
        text = json.dumps([dataclasses.asdict(one) for one in history], indent=2)
        with storage.explaining("The run's files cannot be written", run_directory):
            storage.write_atomically(run_directory / "history.json", text)
            if is_best:
                head.save_weights(run_directory / "best_head.weights.h5")
        _log.info("%s%s", epoch.in_words(config.epochs), "  best so far" if is_best else "")

    with progress.bar("training", config.epochs * len(examples["train"].labels)) as advance:
        fitting.fit(
            trainable,
            examples["train"],
            examples["validation"],
            strategy=strategy,
            loss=loss,
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            on_epoch=keep,
            on_images=advance,
        )
    report.write_learning_curves(history, run_directory / "learning_curves.png")
    forward = Forward(trainable, strategy)
    batch_size = config.batch_size * strategy.num_replicas_in_sync
    return {
        split: evaluation.measure(fitting.logits_of(forward, one, batch_size), one.labels, loss)
        for split, one in examples.items()
        if split != "train"
    }
