"""Measure a published version on a folder of labelled images, through the SavedModel that serves."""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.data import (
    ImageSet,
    duplicate_warnings,
    find_duplicates,
    find_undecodable,
    invalid_images_error,
    scan_split,
)
from trainer.errors import DataError, join_names
from trainer.export import PublishedVersion
from trainer.model import loss_function
from trainer.report.report import HTML_NAME, Report, Timings, write_report
from trainer.runtime import progress, volumes
from trainer.training import Metrics, SplitResult, measure_logits

_INFERENCE = "inference"


def evaluate_version(model: Path, data: Path, output: Path | None = None) -> tuple[Metrics, Path]:
    """Measure a version on the images of one split and write its report.

    Args:
      model: MODEL_DIR/NAME/VERSION, or MODEL_DIR/NAME for its newest version.
      data: holds CLASS/*, with the classes of the version's model card.
      output: directory of report.html and report.json;
        None: MODEL_DIR/NAME/.evaluations/VERSION-TIME-TOKEN, which TensorFlow Serving ignores.
    Returns:
      The metrics, with the mean cross-entropy as loss, and the path of report.html.
    Raises:
      ConfigError: `model` is not a version that this trainer published.
      DataError: the folders do not match the classes, or an image is invalid.
      StorageError: the version cannot be read, or the report cannot be written.
    """
    timings = Timings()
    with timings.measure("loading the version"):
        version = PublishedVersion.open(model)
    with timings.measure("reading the images"):
        found = scan_split(data)
        _check_classes(version, found, data)
        # The model card orders the outputs; the folders are sorted by name.
        truth = np.array([version.labels.index(found.classes[label]) for label in found.labels], np.int32)
    with _directory(output, version) as directory:
        with timings.measure(_INFERENCE):
            logits, probabilities = _answer(version, found)
        loss = loss_function("sparse", len(version.labels))
        metrics = measure_logits(logits, truth, loss)
        split = data.resolve().name
        write_report(
            directory,
            Report(
                title=f"{version.name}, version {version.number}, on {split}",
                facts=_facts(version, found, data),
                history=(),
                results=[SplitResult(split, version.labels, found.paths, truth, probabilities, metrics.loss)],
                stages=timings.seconds,
                image_counts={"reading the images": len(found), _INFERENCE: len(found)},
                warnings=_warnings(version, found, split),
            ),
        )
    return metrics, directory / HTML_NAME


def _check_classes(version: PublishedVersion, found: ImageSet, data: Path) -> None:
    parts = []
    if missing := [label for label in version.labels if label not in found.classes]:
        parts.append(f"no folder for {join_names(missing)}")
    if unknown := [name for name in found.classes if name not in version.labels]:
        parts.append(f"folders that are not a class: {join_names(unknown)}")
    if parts:
        raise DataError(
            f"{data} must hold one folder for each class of {version.name} version {version.number}. "
            f"Received: {'; '.join(parts)}. Rename, add or remove the folders."
        )


def _answer(version: PublishedVersion, found: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    with progress.bar(_INFERENCE, len(found)) as advance:
        try:
            logits, probabilities = version.predict_files(found.paths, on_images=advance)
            if np.isfinite(logits).all():
                return logits, probabilities
            raise invalid_images_error(find_undecodable([found]), len(found), can_be_skipped=False)
        except tf.errors.InvalidArgumentError as error:
            bad = find_undecodable([found])
            if not bad:
                raise
            raise invalid_images_error(bad, len(found), can_be_skipped=False) from error


@contextlib.contextmanager
def _directory(output: Path | None, version: PublishedVersion) -> Iterator[Path]:
    """Make the report's directory and try that it can be written, before the images take their time.

    A directory that was made here and has stayed empty goes again when the block fails.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    name = f"{version.number}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    directory = output or version.path.parent / ".evaluations" / name
    is_new = not directory.exists()
    advice = f"Name {'another' if output else 'a'} folder with --output."
    volumes.check_writable(directory, "The report cannot be written", advice)
    try:
        yield directory
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def _facts(version: PublishedVersion, found: ImageSet, data: Path) -> dict[str, str]:
    card = version.card
    same = [split for split, known in card["data"].items() if known["fingerprint"] == found.fingerprint]
    return {
        "version": str(version.path),
        "published": card["created"],
        "backbone": f"{card['backbone']['name']}, weights {card['backbone']['weights']}",
        "image size": f"{card['input']['height_px']} × {card['input']['width_px']} px",
        "images": str(data) + (f", the same as the run's {same[0]} split" if same else ""),
        "fingerprint": found.fingerprint,
        "evaluated": f"{datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')}, through "
        f"the signature encoded_images, TensorFlow {tf.__version__}",
    }


def _warnings(version: PublishedVersion, found: ImageSet, split: str) -> list[str]:
    warnings = duplicate_warnings(find_duplicates({split: found}))
    if version.card["data"].get("train", {}).get("fingerprint") == found.fingerprint:
        warnings.insert(
            0,
            "The version was trained on these images; on others its accuracy is likely lower. "
            "Evaluate it on the test split.",
        )
    return warnings
