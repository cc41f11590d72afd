"""`python -m local_server`: parse tensorflow_model_server's flags and serve until a signal arrives."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from local_server.flags import build_parser
from local_server.other_flags import check_other_flags

if TYPE_CHECKING:
    from local_server.server import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then end the process with exit code 0.

    Returns:
      0 for --version, 1 if the server cannot start.
    Raises:
      SystemExit: 2 for wrong usage, 0 for --help.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        _print_versions()
        return 0
    check_other_flags(parser, arguments)
    if (arguments.model_base_path is None) == (arguments.model_config_file is None):
        parser.error("exactly one of --model_base_path and --model_config_file is required")
    if arguments.batching_parameters_file and not arguments.enable_batching:
        parser.error("--batching_parameters_file requires --enable_batching")
    for number in _SIGNALS:
        signal.signal(number, _end_process)  # until the server runs, nobody waits for an answer
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
    try:
        server = Server(_settings(arguments))
    except ConfigurationError as error:
        print(f"python -m local_server: {error}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in _SIGNALS:
        # A handler runs in this thread, which may hold the event's lock. Another thread can wait for it.
        signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())
    server.run(stop)
    _end_process()


def _end_process(*_: object) -> NoReturn:
    """End with exit code 0, without tearing down the interpreter.

    A thread may still run TensorFlow: for a call that outlasts the grace period, or to load a version. The
    interpreter would wait for it or, in a daemon thread, pull its memory from under it and crash.
    """
    os._exit(0)


def _print_versions() -> None:
    for name, package in (
        ("local_server", "image-classifier-on-kubernetes"),
        ("TensorFlow Library", "tensorflow"),
    ):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{name}: {version}")


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings, with the contents of the files that the flags name.

    Raises:
      ConfigurationError: a file cannot be used.
    """
    from local_server import configuration
    from local_server.servable import LoadOptions
    from local_server.server import Settings
    from local_server.versions import LoadRetries

    models = batching = metrics_path = None
    if arguments.model_base_path:
        models = configuration.single_model(arguments.model_name, arguments.model_base_path)
    if arguments.enable_batching:
        file = arguments.batching_parameters_file
        batching = configuration.read_batching(file) if file else configuration.BatchingParameters()
    if arguments.monitoring_config_file:
        metrics_path = configuration.read_metrics_path(arguments.monitoring_config_file)
    iterations = max(arguments.num_request_iterations_for_warmup, 1)
    load_options = LoadOptions(
        tags=arguments.saved_model_tags,
        warm_up_iterations=iterations if arguments.enable_model_warmup else 0,
        session=configuration.session(
            arguments.tensorflow_session_config_file,
            arguments.tensorflow_session_parallelism,
            arguments.tensorflow_intra_op_parallelism,
            arguments.tensorflow_inter_op_parallelism,
            arguments.per_process_gpu_memory_fraction,
        ),
    )
    return Settings(
        port=arguments.port,
        models=models,
        model_config_file=arguments.model_config_file,
        model_config_poll_s=arguments.model_config_file_poll_wait_seconds,
        allow_version_labels_for_unavailable_models=arguments.allow_version_labels_for_unavailable_models,
        file_system_poll_s=arguments.file_system_poll_wait_seconds,
        load_options=load_options,
        load_retries=LoadRetries(arguments.max_num_load_retries, arguments.load_retry_interval_micros / 1e6),
        grpc_max_threads=arguments.grpc_max_threads,
        health_service=arguments.enable_grpc_healthcheck_service,
        rest_port=arguments.rest_api_port or None,
        rest_threads=arguments.rest_api_num_threads,
        batching=batching,
        metrics_path=metrics_path,
        channel_arguments=arguments.grpc_channel_arguments,
        tls=configuration.read_tls(arguments.ssl_config_file) if arguments.ssl_config_file else None,
    )
