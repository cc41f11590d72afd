"""Flags of tensorflow_model_server that do nothing here: those that need not, and those that are refused.

A command line or manifest that was written for TensorFlow Serving works here, or says which of its flags
cannot. A refused flag may still be given with the value that it has by default.

Source: flag_list in tensorflow_serving/model_servers/main.cc and the defaults in server.h.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from local_server import flag_values


@dataclasses.dataclass(frozen=True)
class _Flag:
    """One flag.

    Attributes:
      value: reads the value.
      default: the value in TensorFlow Serving, if not given.
      reason: why it does nothing, or why it is refused and what to do; a sentence without its full stop.
    """

    name: str
    value: Callable[[str], Any]
    default: object
    reason: str


_TFLITE = "only --prefer_tflite_model uses it, which is refused"

ACCEPTED = (
    _Flag("num_load_threads", flag_values.whole_number, 0, "versions load in a thread that serves no calls"),
    _Flag(
        "num_unload_threads", flag_values.whole_number, 0, "versions unload in a thread that serves no calls"
    ),
    _Flag(
        "flush_filesystem_caches", flag_values.boolean, True, "the operating system frees its caches itself"
    ),
    _Flag(
        "remove_unused_fields_from_bundle_metagraph",
        flag_values.boolean,
        True,
        "saves memory in TensorFlow Serving only",
    ),
    _Flag("num_tflite_pools", flag_values.whole_number, None, _TFLITE),
    _Flag("num_tflite_interpreters_per_pool", flag_values.whole_number, 1, _TFLITE),
    _Flag(
        "xla_cpu_compilation_enabled", flag_values.boolean, False, "models that use XLA can always do so here"
    ),
    _Flag(
        "xla_gpu_compilation_enabled", flag_values.boolean, False, "models that use XLA can always do so here"
    ),
    _Flag("enable_profiler", flag_values.boolean, True, "this server has no profiler"),
    _Flag(
        "enable_signature_method_name_check",
        flag_values.boolean,
        False,
        "Predict always checks the method name here",
    ),
    _Flag("skip_initialize_tpu", flag_values.boolean, False, "this server uses no TPU"),
)

_CALLS_RUN_TO_THEIR_END = (
    "calls over REST run to their end here. Leave it out and set a timeout in the caller"
)
_ONE_BATCHING = "all models share one configuration here. Put it into --batching_parameters_file"

REFUSED = (
    _Flag("grpc_socket_path", str, "", "this server listens on TCP only. Use --port"),
    _Flag("rest_api_timeout_in_ms", flag_values.integer, 30_000, _CALLS_RUN_TO_THEIR_END),
    _Flag(
        "rest_api_enable_cors_support",
        flag_values.boolean,
        False,
        "this server sends no CORS headers. Put a proxy in front that adds them",
    ),
    _Flag("enable_per_model_batching_parameters", flag_values.boolean, False, _ONE_BATCHING),
    _Flag(
        "use_alts_credentials",
        flag_values.boolean,
        False,
        "ALTS exists on Google Cloud only. Use --ssl_config_file",
    ),
    _Flag(
        "platform_config_file",
        str,
        "",
        "this server serves SavedModels only. Leave it out and use the flags for models and batching",
    ),
    _Flag(
        "prefer_tflite_model",
        flag_values.boolean,
        False,
        "this server runs saved_model.pb only. Leave it out, or run TensorFlow Serving",
    ),
    _Flag(
        "thread_pool_factory_config_file",
        str,
        "",
        "thread pools cannot be replaced here. Use --tensorflow_intra_op_parallelism and "
        "--tensorflow_inter_op_parallelism",
    ),
    _Flag(
        "enable_serialization_as_tensor_content",
        flag_values.boolean,
        False,
        "responses hold typed fields here. Leave it out; a client must be able to read both",
    ),
    _Flag(
        "mixed_precision",
        str,
        "",
        "this server computes with the model's own types. Leave it out, or run TensorFlow Serving",
    ),
)


def add_other_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to the parser, with the reasons as their help."""
    accepted = parser.add_argument_group(
        "accepted and ignored", "Flags of tensorflow_model_server that change nothing here."
    )
    refused = parser.add_argument_group(
        "refused",
        "Flags of tensorflow_model_server that this server cannot obey. It takes them with TensorFlow "
        "Serving's default value, and ends with exit code 2 otherwise.",
    )
    for group, flags in ((accepted, ACCEPTED), (refused, REFUSED)):
        for flag in flags:
            is_boolean = flag.value is flag_values.boolean
            group.add_argument(
                f"--{flag.name}",
                type=flag.value,
                nargs="?" if is_boolean else None,
                const=True if is_boolean else None,
                default=flag.default,
                metavar="true|false" if is_boolean else "VALUE",
                help=flag.reason,
            )


def check_other_flags(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End the program with exit code 2 if a refused flag has a value of its own.

    Raises:
      SystemExit: 2, after one line that names the flag, the reason and what to do.
    """
    for flag in REFUSED:
        value = getattr(arguments, flag.name)
        if value != flag.default:
            text = str(value).lower() if isinstance(value, bool) else value
            parser.error(f"argument --{flag.name}: {flag.reason}. Received: {text}")
