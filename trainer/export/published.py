"""A published version, loaded back from disk: it answers as it does behind TensorFlow Serving."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError, DataError, StorageError
from trainer.export.model_card import CARD_FILE_NAME, CARD_SCHEMA_VERSION

_SIGNATURE = "encoded_images"
_INPUTS_SIGNATURE = "serving_default"
_BATCH_SIZE = 32
_CARD = {
    "name": str,
    "version": int,
    "created": str,
    "labels": list,
    "input": dict,
    "backbone": dict,
    "data": dict,
}
"""What is read from a model card."""


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedVersion:
    """One version's SavedModel and its model card.

    Attributes:
      path: the version's directory.
      card: the model card, as trainer/model_card.py has written it.
    """

    path: Path
    card: Mapping[str, Any]
    # The whole of it: signatures alone do not keep their variables alive.
    _loaded: Any

    @classmethod
    def open(cls, path: Path) -> PublishedVersion:
        """Load a version.

        Args:
          path: MODEL_DIR/NAME/VERSION, or MODEL_DIR/NAME for its newest version.
        Raises:
          ConfigError: there is no version there, or it is none that this tool has published.
          StorageError: its files cannot be read, or are not whole.
        """
        version = _version_directory(path)
        card = _read_card(version)
        loaded = _load(version)
        _check_signature(version, loaded, len(card["labels"]))
        return cls(version, card, loaded)

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.card["name"])

    @property
    def number(self) -> int:
        """The version as TensorFlow Serving knows it: by the directory's name."""
        name = self.path.resolve().name
        return int(name) if name.isdecimal() else int(self.card["version"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The K class names in the order of the outputs."""
        return tuple(self.card["labels"])

    def answer(
        self, paths: Sequence[Path], on_images: Callable[[int], None] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Send the bytes of image files through the signature `encoded_images`.

        Args:
          paths: N files.
          on_images: told how many more images each batch has answered.
        Returns:
          logits and probabilities, each float32 (N, K); NaN for an image that cannot be decoded
          (pipeline.undecodable names it).
        Raises:
          DataError: a file cannot be read.
          tf.errors.InvalidArgumentError: of a batch no image can be decoded.
        """
        serve = self._loaded.signatures[_SIGNATURE]
        logits = np.zeros((len(paths), len(self.labels)), np.float32)
        probabilities = np.zeros_like(logits)
        for start in range(0, len(paths), _BATCH_SIZE):
            rows = slice(start, start + _BATCH_SIZE)
            outputs = serve(encoded=tf.constant([_read_bytes(path) for path in paths[rows]]))
            logits[rows] = outputs["logits"].numpy()
            probabilities[rows] = outputs["probabilities"].numpy()
            on_images(len(paths[rows]))
        return logits, probabilities

    def answer_inputs(self, inputs: np.ndarray) -> np.ndarray:
        """Send preprocessed images through the signature `serving_default`.

        Args:
          inputs: float32 (N, H, W, 3).
        Returns:
          probabilities, float32 (N, K).
        """
        serve = self._loaded.signatures[_INPUTS_SIGNATURE]
        parts = [inputs[start : start + _BATCH_SIZE] for start in range(0, len(inputs), _BATCH_SIZE)]
        return np.concatenate([serve(images=tf.constant(part))["probabilities"].numpy() for part in parts])


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check that it is still there.") from error


def _version_directory(path: Path) -> Path:
    """Return the directory of the version that a path means."""
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
        "folder with a number for its name. Publish a version first, or name another directory."
    )


def _read_card(version: Path) -> dict[str, Any]:
    file = version / "assets.extra" / CARD_FILE_NAME
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _foreign(version, f"no assets.extra/{CARD_FILE_NAME}") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
    except ValueError as error:  # no UTF-8, or no JSON
        raise _foreign(version, f"a model card that is no JSON ({error})") from error
    schema = card.get("schema_version") if isinstance(card, dict) else None
    if schema != CARD_SCHEMA_VERSION:
        raise _foreign(version, f"a model card of schema version {schema}")
    for key, kind in _CARD.items():
        if not isinstance(card.get(key), kind):
            raise _foreign(version, f"a model card without {key!r}")
    checked: dict[str, Any] = card
    return checked


def _load(version: Path) -> Any:
    try:
        return tf.saved_model.load(str(version))
    # What TensorFlow raises depends on the file that is gone or cut off.
    except (OSError, tf.errors.OpError, ValueError, LookupError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"The SavedModel in {version} must load as it was published. Received: {reason}. "
            "Its files are not whole: copy or publish the version again."
        ) from error


def _check_signature(version: Path, loaded: Any, class_count: int) -> None:
    signatures = loaded.signatures
    if _SIGNATURE not in signatures:
        raise _foreign(version, f"the signatures {', '.join(sorted(signatures)) or 'none'}")
    outputs = signatures[_SIGNATURE].structured_outputs
    for name in ("logits", "probabilities"):
        shape = outputs[name].shape.as_list() if name in outputs else None
        if shape != [None, class_count]:
            raise _foreign(version, f"an output {name!r} of shape {shape} for {class_count} labels")


def _foreign(version: Path, received: str) -> ConfigError:
    return ConfigError(
        f"{version} must be a version that this tool has published: a model card of schema version "
        f"{CARD_SCHEMA_VERSION} and the signature {_SIGNATURE!r} with its labels. Received: "
        f"{received}. Name another version, or publish it with python -m trainer."
    )
