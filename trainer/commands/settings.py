"""From flags, a TOML file, a trial and KEY=VALUE pairs to one checked `TrainConfig`.

Precedence: the defaults < a trial of `tune` (--from-trial) < the TOML file < the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trainer.config import TrainConfig, choices_of, flag_of, value_type
from trainer.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Defaults: TypeAlias = "Callable[[Mapping[str, Any]], Mapping[str, Any]]"

_NAMES = [field.name for field in dataclasses.fields(TrainConfig)]


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add --config, and a flag for each setting of `TrainConfig`."""
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of the settings below; flags win over it"
    )
    for field in dataclasses.fields(TrainConfig):
        _add_flag(command, field)


def _add_flag(command: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    """Add the flag of one setting. A flag that is not given stays unset, so that the TOML file can set it."""
    help_text = field.metadata["help"].replace("%", "%%")
    if field.default is not dataclasses.MISSING and field.default is not None:
        help_text += f" (default: {field.default})"
    if value_type(field.name) is bool:
        command.add_argument(
            flag_of(field.name),
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=help_text,
        )
        return
    command.add_argument(
        flag_of(field.name),
        type=value_type(field.name),
        choices=choices_of(field.name),
        default=argparse.SUPPRESS,
        help=help_text,
    )


def from_arguments(arguments: argparse.Namespace, defaults: Defaults | None = None) -> TrainConfig:
    """Return the settings that the command line and its TOML file make (see `resolve`)."""
    flags = {key: value for key, value in vars(arguments).items() if key in _NAMES}
    return resolve(flags, arguments.config, defaults)


def resolve(
    flags: Mapping[str, Any], toml_file: Path | None = None, defaults: Defaults | None = None
) -> TrainConfig:
    """Merge the defaults, the TOML file and the flags that were given into one checked configuration.

    Args:
      defaults: from the settings that were given to others, over which the given ones win (--from-trial).
    Raises:
      ConfigError: an unknown key, a value of the wrong type or out of range, or a missing setting.
    """
    given = {**(_read_toml(toml_file) if toml_file else {}), **flags}
    values = {**(defaults(given) if defaults else {}), **given}
    missing = [
        flag_of(field.name)
        for field in dataclasses.fields(TrainConfig)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, as a flag or in the TOML file.")
    return TrainConfig(**values)


def from_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings that are given as KEY=VALUE, converted and checked.

    Raises:
      ConfigError: no "=", an unknown key, or a value of the wrong type or out of range.
    """
    given = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"A setting must be KEY=VALUE, such as epochs=20. Received: {pair!r}.")
        key = name.replace("-", "_")
        _check_known("--set", key)
        given[key] = _converted(key, text)
    TrainConfig(**{"data": Path(), "model_dir": Path(), **given})  # checks the values
    return given


def _converted(key: str, text: str) -> Any:
    wanted = value_type(key)
    if wanted is bool and text not in ("true", "false"):
        raise ConfigError(f"{key} must be true or false. Received: {text!r}.")
    try:
        return text == "true" if wanted is bool else wanted(text)
    except ValueError as error:
        raise ConfigError(f"{key} must be of type {wanted.__name__}. Received: {text!r}.") from error


def _check_known(where: object, key: str) -> None:
    if key not in _NAMES:
        near = difflib.get_close_matches(key, _NAMES, n=1)
        raise ConfigError(
            f"{where}: unknown key {key!r}. "
            + (f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(_NAMES)}.")
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration file cannot be read: {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file is not valid TOML: {path}: {error}.") from error
    return {key: _typed(path, key, value) for key, value in table.items()}


def _typed(path: Path, key: str, value: Any) -> Any:
    _check_known(path, key)
    wanted = value_type(key)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{path}: {key} must be of type {wanted.__name__}. Received: {value!r}.")
    return value
