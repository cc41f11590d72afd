"""One training run, from folders of images to a published version, in order."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path

import keras

from trainer.config import TrainConfig
from trainer.data import ImageExamples, ImageSet, ScreenedImages, Splits
from trainer.errors import NotGoodEnoughError, TrainerError
from trainer.export import (
    ExportCheck,
    ModelCard,
    ModelDirectory,
    check_and_write_warmup,
    digest_weights,
    protected_versions,
    remove_old_versions,
    save_signatures,
)
from trainer.model import Architecture, build_classifier, copy_for_serving
from trainer.report import ChiefRecord, RunRecord, Timings
from trainer.runtime import progress
from trainer.runtime.stopping import Stop
from trainer.training import (
    Devices,
    Loop,
    Metrics,
    Plan,
    RunDirectory,
    StepOptions,
    Training,
    architecture_of,
    check_and_scan,
    connect_devices,
    gate_refusal,
    measure_splits,
    name_lost_worker,
    newest_version_metrics,
    open_run,
    plan_training,
    prepare_inputs,
    step_options,
)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Published:
    """What a run leaves behind: the version, and the metrics of its exported weights on each split."""

    path: Path
    metrics: dict[str, Metrics]
    run_directory: Path


def train(config: TrainConfig, stop: Stop | None = None) -> Published:
    """Train on the images of `config.data` and publish MODEL_DIR/NAME/VERSION.

    Args:
      stop: asks the run to end; None: nothing does.
    Raises:
      TrainerError: one of its family, before anything is published. Complete work stays in
        MODEL_DIR/NAME/.runs/RUN_ID and in the feature cache, and the next start resumes from it.
    """
    timings, stop = Timings(), stop or Stop()
    models = ModelDirectory(config.model_dir, config.name)
    if config.run_id and (ended := _earlier_result(models, config.run_id)):
        return ended

    # 1. Whatever can fail early fails now, before hours are spent.
    with timings.measure("checks"):
        scan = check_and_scan(config)
    architecture = architecture_of(config, class_count=len(scan.splits["train"].classes))

    # 2. The devices, and the run's directory, which an earlier start may have begun.
    devices = connect_devices(
        config.distribution,
        os.environ,
        cpu_replicas=config.cpu_replicas,
        deterministic=config.deterministic,
    )
    with name_lost_worker(devices), open_run(models.runs, config, scan.splits, devices) as directory:
        record = RunRecord()
        if devices.is_chief:
            record = ChiefRecord(directory, config, architecture, devices, timings)
        images = ScreenedImages(scan, config.on_invalid_image, directory.path, is_chief=devices.is_chief)

        # 3. The network on every device; its frozen layers run once per image.
        with timings.measure("network"), devices.strategy.scope():
            keras.utils.set_random_seed(config.seed)
            network = build_classifier(architecture)
        record.start(images.splits)
        stop.check()
        with timings.measure("frozen layers"):
            # Called again without the images that turn out not to decode.
            inputs = images.read(
                lambda splits: prepare_inputs(
                    config, network, splits, architecture.image_size_px, devices, stop
                )
            )
        splits = images.splits

        # 4. The head, then with --fine-tune-from the backbone's last layers; the best epoch's weights stay.
        plan = plan_training(config, network, inputs, devices.replicas)
        record.planned(plan, inputs.computed, timings.seconds["frozen layers"])
        options = step_options(config, splits["train"])
        _fit(plan, options, devices, directory, config.checkpoint_seconds, record, timings, stop)

        # 5. The network as it will be served, measured on every split that it was not trained on.
        exported = copy_for_serving(network.whole, architecture)
        with timings.measure("evaluation"):
            measured = measure_splits(
                plan,
                exported,
                splits,
                architecture,
                config.resize_filter,
                config.batch_size * devices.local_replicas,
                devices,
            )
        metrics = {split: result.metrics for split, result in measured.items()}

        # 6. A version, if it is good enough: checked, and complete or absent.
        validation = splits["validation"]
        if refusal := devices.chief_text(lambda: _gate(config, metrics["validation"], models, validation)):
            record.report(splits, measured, check=None)
            record.end({"refused": refusal})
            raise NotGoodEnoughError(refusal)
        card = _model_card(config, architecture, exported, splits, metrics, directory.run_id)
        examples = ImageExamples(
            validation,
            architecture.backbone,
            architecture.image_size_px,
            resize_filter=config.resize_filter,
        )
        # The other workers wait for the chief, so that none of them ends before there is a version.
        with timings.measure("export"):
            version = devices.chief_text(
                lambda: _publish(
                    config,
                    models,
                    card,
                    exported,
                    examples,
                    record,
                    stop,
                    on_check=lambda check: record.report(splits, measured, check),
                ),
                is_last=True,
            )
        return Published(models.path / version, metrics, directory.path)


def _earlier_result(models: ModelDirectory, run_id: str) -> Published | None:
    """Return what an earlier start of this run has published; raise what it was refused with."""
    directory = RunDirectory(models.runs / run_id)
    outcome = directory.outcome()
    if outcome is None:
        return None
    if refusal := outcome.get("refused"):
        raise NotGoodEnoughError(refusal)
    metrics = {split: Metrics(**one) for split, one in outcome["metrics"].items()}
    return Published(models.path / str(outcome["version"]), metrics, directory.path)


def _fit(
    plan: Plan,
    options: StepOptions,
    devices: Devices,
    directory: RunDirectory,
    checkpoint_seconds: float,
    record: RunRecord,
    timings: Timings,
    stop: Stop,
) -> None:
    """Train phase after phase; each model is left with the weights of the best epoch."""
    with progress.bar("training", sum(plan.image_counts.values())) as advance:
        training = Training(
            devices,
            directory.checkpoint,
            stop,
            checkpoint_seconds=checkpoint_seconds,
            on_epoch=lambda epoch, is_best: record.epoch(training.history, is_best),
            on_images=advance,
        )
        for phase in plan.phases:
            with timings.measure(phase.name):
                training.run(Loop(phase, options, devices))
    record.trained(training.history)


def _model_card(
    config: TrainConfig,
    architecture: Architecture,
    exported: keras.Model,
    splits: Splits,
    metrics: dict[str, Metrics],
    run_id: str,
) -> ModelCard:
    return ModelCard(
        name=config.name,
        weights_digest=digest_weights(exported),
        labels=splits["train"].classes,
        image_size_px=architecture.image_size_px,
        backbone=architecture.backbone,
        weights=Path(config.weights).name,
        data={split: image_set.summary() for split, image_set in splits.items()},
        metrics={split: dataclasses.asdict(figures) for split, figures in metrics.items()},
        config=dataclasses.asdict(config),
        run_id=run_id,
        resize_filter=config.resize_filter,
        warmup_batch_size=config.warmup_batch_size,
    )


def _gate(config: TrainConfig, candidate: Metrics, models: ModelDirectory, validation: ImageSet) -> str:
    """Return why the model may not be published, or an empty string."""
    newest = newest_version_metrics(models, validation) if config.must_beat_serving else None
    return gate_refusal(candidate, config.min_accuracy, newest)


def _publish(
    config: TrainConfig,
    models: ModelDirectory,
    card: ModelCard,
    exported: keras.Model,
    examples: ImageExamples,
    record: RunRecord,
    stop: Stop,
    on_check: Callable[[ExportCheck], object],
) -> str:
    """Publish the next version and end the run; return the version's number."""
    stop.check()
    version = models.publish(
        card,
        lambda path, text: save_signatures(path, exported, card, text),
        finish=lambda path: check_and_write_warmup(path, exported, examples, on_check),
    )
    record.end({"version": version, "metrics": card.metrics})
    if config.keep_versions:
        _remove_old(models, config.keep_versions, config.model_config)
    return str(version)


def _remove_old(models: ModelDirectory, keep: int, model_config: Path | None) -> None:
    """Remove what --keep-versions allows to; a failure is a warning, because the new version is published."""
    try:
        protected = protected_versions(model_config, models.path.name) if model_config else set()
        removed = remove_old_versions(models, keep, protected)
    except TrainerError as error:
        _log.warning("The old versions stay until the next run removes them. %s", error)
        return
    if removed:
        _log.info("removed old version(s) %s", ", ".join(map(str, removed)))
