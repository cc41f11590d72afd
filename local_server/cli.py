"""`python -m local_server`: parse tensorflow_model_server's flags and serve until a signal arrives."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_server.server import Settings

_CPUS = os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, or 1 if the server cannot start.

    Raises:
      SystemExit: 2 for wrong usage, 0 for --help.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if (arguments.model_base_path is None) == (arguments.model_config_file is None):
        parser.error("exactly one of --model_base_path and --model_config_file is required")
    if arguments.batching_parameters_file and not arguments.enable_batching:
        parser.error("--batching_parameters_file requires --enable_batching")
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Importing TensorFlow takes seconds, which --help and usage errors should not cost.
    try:
        from local_server.configuration import ConfigurationError
        from local_server.server import Server
    except ModuleNotFoundError as error:
        print(
            f"python -m local_server: module {error.name} is not installed. Install the extra `train`: "
            "pip install 'image-classifier-on-kubernetes[train]'.",
            file=sys.stderr,
        )
        return 1
    # TensorFlow warns that the loader for sessions is deprecated. servable.py says why it is used.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        Server(_settings(arguments)).run(stop)
    except ConfigurationError as error:
        print(f"python -m local_server: {error}", file=sys.stderr)
        return 1
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings, with the contents of the files that the flags name.

    Raises:
      ConfigurationError: a file cannot be used.
    """
    from local_server import configuration
    from local_server.server import Settings

    models = batching = metrics_path = None
    if arguments.model_base_path:
        models = configuration.of_one_model(arguments.model_name, arguments.model_base_path)
    if arguments.enable_batching:
        file = arguments.batching_parameters_file
        batching = configuration.read_batching(file) if file else configuration.BatchingParameters()
    if arguments.monitoring_config_file:
        metrics_path = configuration.read_metrics_path(arguments.monitoring_config_file)
    return Settings(
        port=arguments.port,
        models=models,
        model_config_file=arguments.model_config_file,
        model_config_poll_s=arguments.model_config_file_poll_wait_seconds,
        allow_version_labels_for_unavailable_models=arguments.allow_version_labels_for_unavailable_models,
        file_system_poll_s=arguments.file_system_poll_wait_seconds,
        grpc_max_threads=arguments.grpc_max_threads,
        health_service=arguments.enable_grpc_healthcheck_service,
        rest_port=arguments.rest_api_port,
        rest_threads=arguments.rest_api_num_threads,
        batching=batching,
        metrics_path=metrics_path,
        channel_arguments=arguments.grpc_channel_arguments,
        tls=configuration.read_tls(arguments.ssl_config_file) if arguments.ssl_config_file else None,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    parser = argparse.ArgumentParser(
        prog="python -m local_server",
        description="Serve SavedModel versions over TensorFlow Serving's gRPC and REST APIs, on laptops, in "
        "tests and in CI. The flags are those of tensorflow_model_server.",
    )
    _add_models(parser)
    _add_ports(parser)
    _add_batching(parser)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument("--model_name", default="default", help="model name in requests (default: default)")
    models.add_argument("--model_base_path", type=Path, help="directory with the versions 1, 2, ...")
    models.add_argument(
        "--model_config_file",
        type=Path,
        help="text file with a ModelServerConfig: several models, their versions and labels",
    )
    models.add_argument(
        "--model_config_file_poll_wait_seconds",
        type=_at_least_0,
        default=0.0,
        metavar="SECONDS",
        help="seconds between reads of that file; 0 reads it once, at start (default: 0)",
    )
    _add_boolean(
        models,
        "--allow_version_labels_for_unavailable_models",
        "let a new label point at a version that is not loaded yet (default: false)",
    )
    models.add_argument(
        "--file_system_poll_wait_seconds",
        type=_positive,
        default=1.0,
        metavar="SECONDS",
        help="seconds between checks for new versions (default: 1)",
    )


def _add_ports(parser: argparse.ArgumentParser) -> None:
    ports = parser.add_argument_group("ports")
    ports.add_argument("--port", type=int, default=8500, help="gRPC port; 0 picks a free one (default: 8500)")
    ports.add_argument(
        "--grpc_max_threads",
        type=_at_least_1,
        default=4 * _CPUS,
        help="concurrent gRPC calls; more get RESOURCE_EXHAUSTED (default: 4 × CPUs)",
    )
    ports.add_argument(
        "--grpc_channel_arguments",
        type=_channel_arguments,
        default=(),
        metavar="NAME=VALUE,...",
        help="gRPC channel arguments, such as grpc.max_connection_age_ms=60000",
    )
    _add_boolean(
        ports,
        "--enable_grpc_healthcheck_service",
        "serve grpc.health.v1 (default: true; in TensorFlow Serving: false)",
        default=True,
    )
    ports.add_argument(
        "--ssl_config_file",
        type=Path,
        help="text file with an SSLConfig: TLS on the gRPC port, optionally with client certificates",
    )
    ports.add_argument(
        "--rest_api_port", type=int, help="REST port; 0 picks a free one (default: no REST API)"
    )
    ports.add_argument(
        "--rest_api_num_threads",
        type=_at_least_1,
        default=4 * _CPUS,
        help="concurrent REST calls; more get HTTP status 429 (default: 4 × CPUs)",
    )
    ports.add_argument(
        "--monitoring_config_file",
        type=Path,
        help="text file with a MonitoringConfig: Prometheus metrics on the REST port",
    )
    _add_boolean(ports, "--enable_profiler", "accepted and ignored: this server has no profiler")


def _add_batching(parser: argparse.ArgumentParser) -> None:
    batching = parser.add_argument_group("batching")
    _add_boolean(
        batching, "--enable_batching", "run requests of several callers in one batch (default: false)"
    )
    batching.add_argument(
        "--batching_parameters_file",
        type=Path,
        help="text file with BatchingParameters; requires --enable_batching",
    )


def _add_boolean(group: argparse._ArgumentGroup, flag: str, help_text: str, *, default: bool = False) -> None:
    """Add a flag that means true when given without a value."""
    group.add_argument(
        flag, type=_boolean, nargs="?", const=True, default=default, metavar="true|false", help=help_text
    )


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1. Received: {text}")
    return int(text)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false. Received: {text}")
    return text.lower() == "true"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0. Received: {text}")
    return value


def _at_least_0(text: str) -> float:
    return 0.0 if text == "0" else _positive(text)


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE pairs separated by commas. Received: {text}")
    return [(name, int(value) if value.lstrip("-").isdecimal() else value) for name, _, value in pairs]
