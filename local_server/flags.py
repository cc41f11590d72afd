"""The command line: tensorflow_model_server's flags. other_flags.py has those that do nothing here."""

from __future__ import annotations

import argparse
import os

from local_server import flag_values
from local_server.other_flags import add_other_flags

_CPUS = os.cpu_count() or 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    parser = argparse.ArgumentParser(
        prog="python -m local_server",
        usage="%(prog)s (--model_base_path DIR | --model_config_file FILE) [flags]",
        description="Serve SavedModel versions over TensorFlow Serving's gRPC and REST APIs, on laptops, in "
        "tests and in CI. The flags are those of tensorflow_model_server 2.20. Write --flag=value or "
        "--flag value; --flag alone means true.",
        allow_abbrev=False,
    )
    _add_models(parser.add_argument_group("models"))
    _add_loading(parser.add_argument_group("loading"))
    _add_grpc(parser.add_argument_group("gRPC API"))
    _add_rest(parser.add_argument_group("REST API"))
    _add_batching(parser.add_argument_group("batching"))
    _add_tensorflow(parser.add_argument_group("TensorFlow"))
    add_other_flags(parser)
    _add_boolean(parser, "--version", "print the versions of this package and of TensorFlow, and end")
    return parser


def _add_models(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model_name", default="default", help="model name in requests (default: default)")
    _add_path(group, "--model_base_path", "DIR", "directory with the versions 1, 2, ...")
    _add_path(
        group,
        "--model_config_file",
        "FILE",
        "text file with a ModelServerConfig: several models, their versions and labels",
    )
    _add_seconds(
        group,
        "--model_config_file_poll_wait_seconds",
        0.0,
        "seconds between reads of that file; 0 reads it once, at start (default: 0)",
    )
    _add_boolean(
        group,
        "--allow_version_labels_for_unavailable_models",
        "let a new label point at a version that is not loaded yet (default: false)",
    )
    _add_seconds(
        group,
        "--file_system_poll_wait_seconds",
        1.0,
        "seconds between checks for new versions; 0 checks once, at start (default: 1)",
    )


def _add_loading(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max_num_load_retries",
        type=flag_values.whole_number,
        default=5,
        metavar="NUMBER",
        help="further tries to load a version that failed to load (default: 5)",
    )
    group.add_argument(
        "--load_retry_interval_micros",
        type=flag_values.integer,
        default=60_000_000,
        metavar="MICROSECONDS",
        help="time between those tries; 0 or less does not wait (default: 60000000, a minute)",
    )
    _add_boolean(
        group,
        "--enable_model_warmup",
        "send a version the requests of its warm-up file before it is served (default: true)",
        default=True,
    )
    group.add_argument(
        "--num_request_iterations_for_warmup",
        type=flag_values.integer,
        default=0,
        metavar="NUMBER",
        help="how often each of those requests is sent; 0 or less is once (default: 0)",
    )
    group.add_argument(
        "--saved_model_tags",
        type=flag_values.tags,
        default=("serve",),
        metavar="TAG,...",
        help="tags of the graph to load from a SavedModel (default: serve)",
    )


def _add_grpc(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--port", type=int, default=8500, help="TCP port; 0 picks a free one (default: 8500)")
    group.add_argument(
        "--grpc_max_threads",
        type=flag_values.at_least_1,
        default=4 * _CPUS,
        metavar="NUMBER",
        help="concurrent calls; more get RESOURCE_EXHAUSTED (default: 4 × CPUs)",
    )
    group.add_argument(
        "--grpc_channel_arguments",
        type=flag_values.channel_arguments,
        default=(),
        metavar="NAME=VALUE,...",
        help="gRPC channel arguments, such as grpc.max_connection_age_ms=60000",
    )
    _add_boolean(
        group,
        "--enable_grpc_healthcheck_service",
        "serve grpc.health.v1 (default: true; in TensorFlow Serving: false)",
        default=True,
    )
    _add_path(
        group,
        "--ssl_config_file",
        "FILE",
        "text file with an SSLConfig: TLS on the gRPC port, optionally with client certificates",
    )


def _add_rest(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rest_api_port",
        type=int,
        default=0,
        metavar="PORT",
        help="TCP port; 0 for no REST API (default: 0)",
    )
    group.add_argument(
        "--rest_api_num_threads",
        type=flag_values.at_least_1,
        default=4 * _CPUS,
        metavar="NUMBER",
        help="concurrent calls; more get HTTP status 429 (default: 4 × CPUs)",
    )
    _add_path(
        group,
        "--monitoring_config_file",
        "FILE",
        "text file with a MonitoringConfig: Prometheus metrics on the REST port",
    )


def _add_batching(group: argparse._ArgumentGroup) -> None:
    _add_boolean(group, "--enable_batching", "run requests of several callers in one batch (default: false)")
    _add_path(
        group,
        "--batching_parameters_file",
        "FILE",
        "text file with BatchingParameters; requires --enable_batching",
    )


def _add_tensorflow(group: argparse._ArgumentGroup) -> None:
    for flag, purpose in (
        ("--tensorflow_session_parallelism", "both kinds of threads of a model"),
        ("--tensorflow_intra_op_parallelism", "threads that compute one operation"),
        ("--tensorflow_inter_op_parallelism", "operations that run at the same time"),
    ):
        group.add_argument(
            flag,
            type=flag_values.whole_number,
            default=0,
            metavar="NUMBER",
            help=f"{purpose}; 0 lets TensorFlow choose (default: 0)",
        )
    _add_path(
        group,
        "--tensorflow_session_config_file",
        "FILE",
        "text file with a ConfigProto for sessions; the flags of this group change it",
    )
    group.add_argument(
        "--per_process_gpu_memory_fraction",
        type=flag_values.fraction,
        default=0.0,
        metavar="FRACTION",
        help="share of each GPU's memory, up to 1; 0 lets TensorFlow choose (default: 0)",
    )


def _add_path(group: argparse._ArgumentGroup, flag: str, metavar: str, help_text: str) -> None:
    group.add_argument(flag, type=flag_values.path, metavar=metavar, help=help_text)


def _add_seconds(group: argparse._ArgumentGroup, flag: str, default: float, help_text: str) -> None:
    group.add_argument(flag, type=flag_values.seconds, default=default, metavar="SECONDS", help=help_text)


def _add_boolean(
    group: argparse._ActionsContainer, flag: str, help_text: str, *, default: bool = False
) -> None:
    """Add a flag that means true when given without a value."""
    group.add_argument(
        flag,
        type=flag_values.boolean,
        nargs="?",
        const=True,
        default=default,
        metavar="true|false",
        help=help_text,
    )
