"""TensorFlow Serving's model config: the versions to keep loaded, and the labels that point at them.

Promoting and rolling back only move a label. The server polls the file and moves a label only to a version
that is loaded, so that no request fails.

Source: tensorflow_serving/config/model_server_config.proto, file_system_storage_path_source.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import text_format

from trainer.cluster.wire import ModelConfig, ModelServerConfig
from trainer.errors import ConfigError

_PREVIOUS = "-previous"
"""LABEL-previous points where LABEL pointed before it moved. That version stays loaded and on disk."""


def protected_versions(text: str, name: str, where: object) -> set[int]:
    """Return the versions of a model that the model config names by number.

    Args:
      name: of the model. A text without this model protects nothing.
      where: the file or ConfigMap of the text, for messages.
    Returns:
      The versions in `version_labels` and in `model_version_policy { specific { … } }`.
    Raises:
      ConfigError: the text is not a model config.
    """
    return {
        version
        for model in _parse(text, where).model_config_list.config
        if model.name == name
        for version in (*model.version_labels.values(), *model.model_version_policy.specific.versions)
    }


def labels(text: str, name: str, where: object) -> dict[str, int]:
    """Return the labels of a model and the versions that they point at.

    Raises:
      ConfigError: the text is not a model config, or does not name the model.
    """
    return dict(_model(_parse(text, where), name, where).version_labels)


def promote(text: str, name: str, label: str, version: int, where: object) -> str:
    """Return the text with a label moved to a version. LABEL-previous keeps its former version.

    Raises:
      ConfigError: the text is not a model config, does not name the model, or does not keep that version
        loaded.
    """
    _check_label(label)
    config = _parse(text, where)
    model = _model(config, name, where)
    choice = model.model_version_policy.WhichOneof("policy_choice")
    kept = choice == "all" or (
        choice == "specific" and version in model.model_version_policy.specific.versions
    )
    if not kept:
        raise ConfigError(
            f"The model_version_policy in {where} must keep version {version} loaded: all {{ }}, or specific "
            f"with that version. Received: {choice or 'none'}. Change the policy, and promote again when the "
            "server has loaded the version."
        )
    before = model.version_labels.get(label)
    if before is not None and before != version:
        model.version_labels[label + _PREVIOUS] = before
    model.version_labels[label] = version
    return _with_header(text, config)


def roll_back(text: str, name: str, label: str, where: object) -> tuple[str, int]:
    """Return the text with a label moved back to its former version, and that version.

    Raises:
      ConfigError: the text is not a model config, does not name the model, or the label never moved.
    """
    _check_label(label)
    config = _parse(text, where)
    model = _model(config, name, where)
    given = model.version_labels
    if label not in given or label + _PREVIOUS not in given:
        raise ConfigError(
            f"--label must be a label that promote has moved. Received: {label!r} of {name} in {where}, "
            f"which has {_format_labels(given)}. Use promote VERSION --label {label}."
        )
    version = given[label + _PREVIOUS]
    given[label + _PREVIOUS], given[label] = given[label], version
    return _with_header(text, config), int(version)


def _check_label(label: str) -> None:
    if not label or label.endswith(_PREVIOUS) or set(label) & set("/: \t\n"):
        raise ConfigError(
            f"--label must be a name such as stable or canary. It must not contain '/', ':' or spaces, or "
            f"end with {_PREVIOUS}. Received: {label!r}."
        )


def _parse(text: str, where: object) -> ModelServerConfig:
    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            "--model-config must be TensorFlow Serving's model config file, a ModelServerConfig as text. "
            f"Received: {where}: {reason}. Give the file of --model_config_file."
        ) from error


def _model(config: ModelServerConfig, name: str, where: object) -> ModelConfig:
    known = {model.name: model for model in config.model_config_list.config}
    if name not in known:
        raise ConfigError(
            f"{where} must name the model {name!r}. Received: {', '.join(known) or 'no models'}. Give "
            "another --name, or add the model."
        )
    return known[name]


def _with_header(before: str, config: ModelServerConfig) -> str:
    """Return the model config as text, after the comments at the top of the former text."""
    lines = before.splitlines(keepends=True)
    header = "".join(lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)])
    return header + text_format.MessageToString(config)


def _format_labels(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label}: {version}" for label, version in sorted(labels.items())) or "no labels"
