"""What every version goes through between being written and being seen: the proof, the warm-up file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras

from trainer.data import ImageExamples
from trainer.export.export_check import ExportCheck, check_export, client_inputs, sample_examples
from trainer.export.published import PublishedVersion
from trainer.export.warmup import write_warmup_requests


def check_and_warm_up(
    staging: Path,
    network: keras.Model,
    examples: ImageExamples,
    warmup_batch_size: int,
    on_proof: Callable[[ExportCheck], object] = lambda proof: None,
) -> None:
    """Prove a version that lies on disk, and give it its warm-up file.

    Args:
      staging: the version's directory; whole but for the warm-up file.
      network: in memory, what the version was written from.
      examples: images to compare on; a sample of them is taken.
      warmup_batch_size: the largest batch of the warm-up file.
      on_proof: told what was compared, also if it does not hold.
    Raises:
      ExportMismatchError: the version does not answer as the network.
      StorageError: it cannot be loaded back.
    """
    version = PublishedVersion.open(staging)
    shown = sample_examples(examples)
    proved = check_export(version, network, shown)
    on_proof(proved)
    proved.require()
    paths = shown.images.paths
    write_warmup_requests(
        staging / "assets.extra",
        version.name,
        inputs=client_inputs(version, paths[:1]),
        pictures=[path.read_bytes() for path in paths],
        largest_batch=warmup_batch_size,
    )
