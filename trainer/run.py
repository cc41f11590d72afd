"""One training run, from a folder of images to a published version: the story, in order."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import ImageExamples, ImageSet, ScreenedImages, Splits, quality_warnings
from trainer.errors import NotGoodEnoughError, TrainerError
from trainer.export import (
    ExportCheck,
    ModelCard,
    ModelDirectory,
    check_and_warm_up,
    protected_versions,
    remove_old_versions,
    save_signatures,
)
from trainer.model import build_classifier, copy_for_serving, find_backbone
from trainer.report import EventLog, Report, Timings, write_learning_curves, write_report
from trainer.runtime import progress, storage
from trainer.runtime.stopping import Stop
from trainer.training import (
    Devices,
    Epoch,
    Loop,
    MeasuredSplit,
    Metrics,
    Plan,
    RunDirectory,
    StepOptions,
    Training,
    check_gate,
    choose_run_id,
    connect_devices,
    measure_splits,
    name_lost_worker,
    newest_version_metrics,
    plan_training,
    require_ready,
    run_identity,
    step_options,
)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Published:
    """What a run leaves behind: the version, and how good its exported weights are on each split."""

    path: Path
    metrics: dict[str, Metrics]
    run_directory: Path


@dataclasses.dataclass(frozen=True)
class _Run:
    """What every step of a run needs to know."""

    config: TrainConfig
    image_size_px: int
    devices: Devices
    directory: RunDirectory
    timings: Timings
    stop: Stop


def train(config: TrainConfig, stop: Stop | None = None) -> Published:
    """Train on the images of `config.data` and publish MODEL_DIR/NAME/VERSION.

    Args:
      stop: how the run is asked to end; None: nobody asks.
    Raises:
      TrainerError: one of its family, before anything is published; what was complete stays in
        MODEL_DIR/NAME/.runs/RUN_ID and in the feature cache, and the next start goes on from there.
    """
    timings, stop = Timings(), stop or Stop()
    model_directory = ModelDirectory(config.model_dir, config.name)
    if config.run_id and (ended := _outcome(model_directory, config.run_id)):
        return ended

    # 1. Everything that can be refused is refused before hours are spent.
    backbone = find_backbone(config.backbone)
    with timings.measure("checks"):
        scan = require_ready(config)
    classes = scan.splits["train"].classes

    # 2. The devices; the run's directory, which an earlier start may have begun.
    devices = connect_devices(config, os.environ)
    with (
        name_lost_worker(devices),
        _run_directory(config, model_directory, scan.splits, devices) as directory,
    ):
        run = _Run(config, config.image_size or backbone.native_size_px, devices, directory, timings, stop)
        images = ScreenedImages(scan, config.on_invalid_image, directory.path, is_chief=devices.is_chief)

        # 3. The network on every device; its frozen layers once per image.
        with timings.measure("network"), devices.strategy.scope():
            keras.utils.set_random_seed(config.seed)
            network = build_classifier(config, backbone, run.image_size_px, len(classes))
        _log_start(run, images.splits)
        stop.check()
        with timings.measure("frozen layers"):
            plan = images.read(
                lambda splits: plan_training(config, network, splits, run.image_size_px, devices, run.stop)
            )
        _log_extraction(run, plan)
        splits = images.splits

        # 4. The head, then perhaps the last layers; the best epoch's weights are kept.
        options = step_options(config, splits["train"])
        history = _fit(run, plan, options)

        # 5. Measured as it will be served; not published if it is not good enough.
        exported = copy_for_serving(network.whole, config, backbone, run.image_size_px, len(classes))
        with timings.measure("evaluation"):
            measured = measure_splits(config, plan, exported, splits, run.image_size_px, devices)
        metrics = {split: one.metrics for split, one in measured.items()}
        _write_report(run, history, measured, splits, plan)
        _pass_gate(run, metrics["validation"], model_directory, splits)

        # 6. The version, proved and whole or not at all.
        with timings.measure("export"):
            card = ModelCard(
                name=config.name,
                labels=classes,
                image_size_px=run.image_size_px,
                backbone=backbone,
                weights=Path(config.weights).name,
                data={split: image_set.summary() for split, image_set in splits.items()},
                metrics={split: dataclasses.asdict(one) for split, one in metrics.items()},
                config=dataclasses.asdict(config),
                run_id=directory.run_id,
                resize_filter=config.resize_filter,
            )
            version = _publish(
                run,
                model_directory,
                card,
                exported,
                splits["validation"],
                on_proof=lambda proof: _write_report(run, history, measured, splits, plan, proof),
            )
        return Published(model_directory.path / str(version), metrics, directory.path)


def _outcome(model_directory: ModelDirectory, run_id: str) -> Published | None:
    """Return what an earlier start of this run has published; raise what it was refused with."""
    directory = RunDirectory(model_directory.runs / run_id)
    outcome = directory.outcome()
    if outcome is None:
        return None
    if refusal := outcome.get("refused"):
        raise NotGoodEnoughError(refusal)
    metrics = {split: Metrics(**one) for split, one in outcome["metrics"].items()}
    return Published(model_directory.path / str(outcome["version"]), metrics, directory.path)


@contextlib.contextmanager
def _run_directory(
    config: TrainConfig, model_directory: ModelDirectory, splits: Splits, devices: Devices
) -> Iterator[RunDirectory]:
    """Begin the run, or go on with it; the chief holds its lock, and all workers agree on its name."""
    identity = run_identity(config, splits)
    chosen = choose_run_id(model_directory.runs, config, identity) if devices.is_chief else ""
    directory = RunDirectory(model_directory.runs / devices.from_chief(chosen))
    if devices.is_chief:
        directory.begin(config, identity)
    try:
        yield directory
    finally:
        directory.release()


def _log_start(run: _Run, splits: Splits) -> None:
    if not run.devices.is_chief:
        return
    counts = ", ".join(f"{len(image_set)} {split}" for split, image_set in splits.items())
    _log.info(
        "%s, %d px, weights %s; %d classes; images: %s; %d replica(s), global batch %d",
        run.config.backbone,
        run.image_size_px,
        run.config.weights,
        len(splits["train"].classes),
        counts,
        run.devices.replicas,
        run.config.batch_size * run.devices.replicas,
    )
    for warning in quality_warnings(splits):
        _log.warning("%s", warning)


def _log_extraction(run: _Run, plan: Plan) -> None:
    if not plan.extracted or not run.devices.is_chief:
        return
    seconds = run.timings.seconds["frozen layers"]
    _log.info(
        "frozen layers: %d images in %.1f s (%.0f images/s)",
        plan.extracted,
        seconds,
        plan.extracted / seconds,
    )


def _fit(run: _Run, plan: Plan, options: StepOptions) -> list[Epoch]:
    """Train phase after phase; keep history and best weights in the run's directory."""
    devices = run.devices
    events = EventLog(run.directory.path / "tensorboard") if devices.is_chief else None
    epochs = {phase.name: phase.epochs for phase in plan.phases}

    def on_epoch(epoch: Epoch, is_best: bool) -> None:
        if events is None:
            return
        history = [dataclasses.asdict(one) for one in training.history]
        run.directory.write("history.json", json.dumps(history, indent=2))
        events.add(epoch, step=len(history))
        _log.info("%s%s", epoch.in_words(epochs[epoch.phase]), "  best so far" if is_best else "")

    images = sum(phase.epochs * len(phase.train.labels) for phase in plan.phases)
    with progress.bar("training", images) as advance:
        training = Training(
            devices,
            run.directory.checkpoint,
            run.stop,
            checkpoint_seconds=run.config.checkpoint_seconds,
            on_epoch=on_epoch,
            on_images=advance,
        )
        for phase in plan.phases:
            with run.timings.measure(phase.name):
                training.run(Loop(phase, options, devices))
    if devices.is_chief:
        with storage.explain_errors("The run's files cannot be written", run.directory.path):
            plan.phases[-1].model.save_weights(run.directory.path / "best.weights.h5")
    return training.history


def _write_report(
    run: _Run,
    history: Sequence[Epoch],
    measured: Mapping[str, MeasuredSplit],
    splits: Splits,
    plan: Plan,
    proof: ExportCheck | None = None,
) -> None:
    if not run.devices.is_chief:
        return
    write_learning_curves(history, run.directory.path / "learning_curves.png")
    write_report(
        run.directory.path,
        Report(
            title=f"{run.config.name}, run {run.directory.run_id}",
            facts={
                "backbone": f"{run.config.backbone}, weights {Path(run.config.weights).name}",
                "image size": f"{run.image_size_px} px",
                "trained": " and ".join(phase.name for phase in plan.phases),
                "images": ", ".join(f"{len(images)} {split}" for split, images in splits.items()),
                "devices": f"{run.devices.replicas} replica(s) on {run.devices.workers} worker(s)",
                "precision": run.config.precision,
                **({"proved": proof.in_words()} if proof else {}),
            },
            history=history,
            results=[one.result for one in measured.values()],
            stages=run.timings.seconds,
            image_counts={
                "frozen layers": plan.extracted,
                **{phase.name: phase.epochs * len(phase.train.labels) for phase in plan.phases},
            },
            warnings=[*(proof.complaints() if proof else ()), *quality_warnings(splits)],
        ),
    )


def _pass_gate(run: _Run, candidate: Metrics, model_directory: ModelDirectory, splits: Splits) -> None:
    """Have the chief decide, and all workers end alike."""
    verdict = ""
    if run.devices.is_chief:
        must_beat = run.config.must_beat_serving
        newest = newest_version_metrics(model_directory, splits["validation"]) if must_beat else None
        try:
            check_gate(candidate, run.config.min_accuracy, newest)
        except NotGoodEnoughError as error:
            verdict = str(error)
            run.directory.end({"refused": verdict})
    if verdict := run.devices.from_chief(verdict):
        raise NotGoodEnoughError(verdict)


def _publish(
    run: _Run,
    model_directory: ModelDirectory,
    card: ModelCard,
    exported: keras.Model,
    validation: ImageSet,
    on_proof: Callable[[ExportCheck], object],
) -> int:
    """Have the chief publish; the others wait for it, so that none is done before there is a version."""
    if not run.devices.is_chief:
        return int(run.devices.from_chief(""))
    run.stop.check()
    examples = ImageExamples(validation, card.backbone, card.image_size_px, resize_filter=card.resize_filter)
    version = model_directory.publish(
        card,
        lambda path, text: save_signatures(
            path, exported, card.backbone, card.image_size_px, text, card.resize_filter
        ),
        finish=lambda path: check_and_warm_up(
            path, exported, examples, run.config.warmup_batch_size, on_proof
        ),
    )
    run.directory.end({"version": version, "metrics": card.metrics})
    if run.config.keep_versions:
        _remove_old(run.config, run.config.keep_versions, model_directory)
    with contextlib.suppress(tf.errors.OpError):  # another worker that is lost now changes nothing
        run.devices.from_chief(str(version))
    return version


def _remove_old(config: TrainConfig, keep: int, model_directory: ModelDirectory) -> None:
    """Remove what --keep-versions lets go of; the new version is published, whatever happens here."""
    path = config.model_config
    try:
        protected = protected_versions(path, config.name) if path else set()
        removed = remove_old_versions(model_directory, keep, protected)
    except TrainerError as error:
        _log.warning("the old versions stay, until the next run removes them. %s", error)
        return
    if removed:
        _log.info("removed old version(s) %s", ", ".join(map(str, removed)))
