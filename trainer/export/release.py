"""The last steps before a version becomes visible: the export check, then the warm-up file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras

from trainer.data import ImageExamples, read_bytes
from trainer.export.export_check import ExportCheck, check_export, preprocess_as_client, sample_examples
from trainer.export.published_version import PublishedVersion
from trainer.export.warmup import write_warmup_requests


def check_and_write_warmup(
    staging: Path,
    network: keras.Model,
    examples: ImageExamples,
    on_check: Callable[[ExportCheck], object] = lambda check: None,
) -> None:
    """Load a version back from disk, check it against its network, and write its warm-up file.

    Args:
      staging: the version's directory, complete except for the warm-up file.
      network: what the version was exported from.
      examples: images to compare on. A sample of them is used.
      on_check: receives the result, before a mismatch raises.
    Raises:
      ExportMismatchError: the version and the network predict different probabilities.
      StorageError: the version cannot be loaded.
    """
    version = PublishedVersion.open(staging)
    sample = sample_examples(examples)
    check = check_export(version, network, sample)
    on_check(check)
    check.require_match()
    paths = sample.images.paths
    write_warmup_requests(
        staging / "assets.extra",
        version.name,
        inputs=preprocess_as_client(version, paths[:1]),
        encoded=[read_bytes(path) for path in paths],
        largest_batch=version.card["warmup_batch_size"],
    )
