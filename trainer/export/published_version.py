"""Load a published version from disk and run its signatures, as TensorFlow Serving does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import read_bytes
from trainer.errors import ConfigError, DataError, StorageError
from trainer.export.model_card import CARD_FILE_NAME, CARD_SCHEMA_VERSION

_BATCH_SIZE = 32
_CARD_TYPES = {
    "name": str,
    "version": int,
    "created": str,
    "labels": list,
    "input": dict,
    "backbone": dict,
    "data": dict,
}
"""The entries of a model card that are read here or by callers, and their types."""


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedVersion:
    """One version's SavedModel and its model card.

    Attributes:
      path: the version's directory.
      card: the model card, as `ModelCard.to_json` writes it.
    """

    path: Path
    card: Mapping[str, Any]
    # The whole SavedModel, because signatures alone do not keep their variables alive.
    _saved_model: Any

    @classmethod
    def open(cls, path: Path) -> PublishedVersion:
        """Load a version.

        Args:
          path: MODEL_DIR/NAME/VERSION, or MODEL_DIR/NAME for its newest version.
        Raises:
          ConfigError: the path does not hold a version that this trainer published.
          StorageError: its files cannot be read, or are incomplete.
        """
        version = _version_directory(path)
        card = _read_card(version)
        saved_model = _load(version)
        _check_outputs(version, saved_model, len(card["labels"]))
        return cls(version, card, saved_model)

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.card["name"])

    @property
    def number(self) -> int:
        """The version number: the directory's name, as in TensorFlow Serving; else the card's."""
        name = self.path.resolve().name
        return int(name) if name.isdecimal() else int(self.card["version"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The K class names in the order of the outputs."""
        return tuple(self.card["labels"])

    def predict_files(
        self, paths: Sequence[Path], on_images: Callable[[int], None] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the signature `encoded_images` on image files.

        Args:
          paths: N files.
          on_images: called after each batch with its number of images.
        Returns:
          logits and probabilities, each float32 (N, K); NaN for an image that cannot be decoded
          (`find_undecodable` gives the reason).
        Raises:
          DataError: a file cannot be read.
          tf.errors.InvalidArgumentError: no image of a batch can be decoded.
        """
        encoded_images = self._saved_model.signatures["encoded_images"]
        logits = np.zeros((len(paths), len(self.labels)), np.float32)
        probabilities = np.zeros_like(logits)
        for start in range(0, len(paths), _BATCH_SIZE):
            rows = slice(start, start + _BATCH_SIZE)
            outputs = encoded_images(encoded=tf.constant([_read_bytes(path) for path in paths[rows]]))
            logits[rows] = outputs["logits"].numpy()
            probabilities[rows] = outputs["probabilities"].numpy()
            on_images(len(paths[rows]))
        return logits, probabilities

    def predict_images(self, images: np.ndarray) -> np.ndarray:
        """Run the signature `serving_default` on preprocessed images.

        Args:
          images: float32 (N, H, W, 3).
        Returns:
          probabilities, float32 (N, K).
        """
        serving_default = self._saved_model.signatures["serving_default"]
        batches = [images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE)]
        return np.concatenate(
            [serving_default(images=tf.constant(batch))["probabilities"].numpy() for batch in batches]
        )


def _read_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check that it still exists.") from error


def _version_directory(path: Path) -> Path:
    """Return the version's directory: the path itself, or the highest number in a model's directory."""
    expected = "MODEL_DIR/NAME/VERSION, or MODEL_DIR/NAME for its newest version"
    try:
        entries = {entry.name: entry for entry in path.iterdir()}
    except OSError as error:
        raise ConfigError(
            f"A published version is {expected}. Received: {path}: {error.strerror}. "
            "Check --model, and that the volume is mounted."
        ) from error
    numbers = [name for name, entry in entries.items() if name.isdecimal() and entry.is_dir()]
    if numbers:
        return entries[max(numbers, key=int)]
    if {"saved_model.pb", "assets.extra"} & set(entries):
        return path
    raise ConfigError(
        f"A published version is {expected}. Received: {path}, which holds neither saved_model.pb nor a "
        "folder whose name is a number. Publish a version first, or name another directory."
    )


def _read_card(version: Path) -> dict[str, Any]:
    file = version / "assets.extra" / CARD_FILE_NAME
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _not_ours(version, f"no assets.extra/{CARD_FILE_NAME}") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise _not_ours(version, f"a model card that is not JSON ({error})") from error
    schema = card.get("schema_version") if isinstance(card, dict) else None
    if schema != CARD_SCHEMA_VERSION:
        raise _not_ours(version, f"a model card of schema version {schema}")
    for key, expected_type in _CARD_TYPES.items():
        if not isinstance(card.get(key), expected_type):
            raise _not_ours(version, f"a model card without a valid {key!r}")
    checked: dict[str, Any] = card
    return checked


def _load(version: Path) -> Any:
    try:
        return tf.saved_model.load(str(version))
    # The exception depends on which file is missing or truncated.
    except (OSError, tf.errors.OpError, ValueError, LookupError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"The SavedModel in {version} cannot be loaded. Received: {reason}. "
            "Some of its files are missing or incomplete: copy or publish the version again."
        ) from error


def _check_outputs(version: Path, saved_model: Any, class_count: int) -> None:
    signatures = saved_model.signatures
    if "encoded_images" not in signatures:
        raise _not_ours(version, f"the signatures {', '.join(sorted(signatures)) or 'none'}")
    outputs = signatures["encoded_images"].structured_outputs
    for name in ("logits", "probabilities"):
        shape = outputs[name].shape.as_list() if name in outputs else None
        if shape != [None, class_count]:
            raise _not_ours(version, f"an output {name!r} of shape {shape} for {class_count} labels")


def _not_ours(version: Path, received: str) -> ConfigError:
    return ConfigError(
        f"{version} must be a version that python -m trainer published, with a model card of schema version "
        f"{CARD_SCHEMA_VERSION} and a signature 'encoded_images' that matches its labels. Received: "
        f"{received}. Name another version, or publish this one again."
    )
