"""`python -m local_server`: the flags are tensorflow_model_server's own."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

_log = logging.getLogger(__name__)

# Calls that have begun when the server is told to stop get this long to end.
_GRACE_S = 10.0


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow takes seconds to import: not for --help or a mistyped flag.
    from local_server.services import build_server
    from local_server.versions import ModelVersions

    # The session's loader is marked as deprecated; it is what TensorFlow Serving does (servable.py).
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    model = ModelVersions(arguments.model_name, arguments.model_base_path)
    address = f"0.0.0.0:{arguments.port}"
    try:
        server, port = build_server(
            model, address, arguments.grpc_max_threads, arguments.enable_grpc_healthcheck_service
        )
    except RuntimeError:
        print(
            f"python -m local_server: --port {arguments.port} cannot be used: another program listens "
            "there, or this user may not. Stop it or name another --port.",
            file=sys.stderr,
        )
        return 1

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    # As TensorFlow Serving: the port answers only once a version is there, so that being reachable
    # means being ready.
    model.poll()
    while not model.is_ready() and not stop.wait(arguments.file_system_poll_wait_seconds):
        model.poll()
    if not stop.is_set():
        server.start()
        _log.info("%s: gRPC on port %d", model.name, port)
    while not stop.wait(arguments.file_system_poll_wait_seconds):
        model.poll()
    server.stop(_GRACE_S).wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_server",
        description="Serve SavedModel versions over TensorFlow Serving's gRPC API: for laptops, tests and "
        "CI. The flags are those of tensorflow_model_server.",
    )
    parser.add_argument(
        "--port", type=int, default=8500, help="gRPC port; 0 takes a free one (default: 8500)"
    )
    parser.add_argument("--model_name", default="default", help="name that requests use (default: default)")
    parser.add_argument(
        "--model_base_path", type=Path, required=True, help="directory that holds the versions 1, 2, ..."
    )
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=_positive,
        default=1.0,
        help="seconds between looks for new versions (default: 1)",
    )
    parser.add_argument(
        "--grpc_max_threads",
        type=_at_least_1,
        default=4 * (os.cpu_count() or 1),
        help="calls that are worked on at the same time (default: 4 × CPUs)",
    )
    parser.add_argument(
        "--enable_grpc_healthcheck_service",
        type=_boolean,
        default=True,
        metavar="true|false",
        help="answer grpc.health.v1 (default: true; TensorFlow Serving's own default is false)",
    )
    return parser


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
