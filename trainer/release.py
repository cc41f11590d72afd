"""What every version goes through between being written and being seen: the proof, the warm-up file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras

from trainer import proof, warmup
from trainer.exported import ExportedVersion
from trainer.pipeline import ImageExamples
from trainer.proof import Proof


def prepare(
    staging: Path,
    network: keras.Model,
    examples: ImageExamples,
    warmup_batch_size: int,
    on_proof: Callable[[Proof], object] = lambda proof: None,
) -> None:
    """Prove a version that lies on disk, and give it its warm-up file.

    Args:
      staging: the version's directory; whole but for the warm-up file.
      network: in memory, what the version was written from.
      examples: images to compare on; a sample of them is taken.
      warmup_batch_size: the largest batch of the warm-up file.
      on_proof: told what was compared, also if it does not hold.
    Raises:
      NotProvedError: the version does not answer as the network.
      StorageError: it cannot be loaded back.
    """
    version = ExportedVersion.open(staging)
    shown = proof.sample(examples)
    proved = proof.compare(version, network, shown)
    on_proof(proved)
    proved.require()
    paths = shown.images.paths
    warmup.write(
        staging / "assets.extra",
        version.name,
        inputs=proof.inputs_of(version, paths[:1]),
        pictures=[path.read_bytes() for path in paths],
        largest_batch=warmup_batch_size,
    )
