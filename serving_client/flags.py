"""The flags that select a server and a model, and the client options they stand for."""

from __future__ import annotations

import argparse
from typing import Any

from serving_client.channel import DEFAULT_TIMEOUT_S, Tls


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all commands share."""
    server = parser.add_argument_group("server and model")
    server.add_argument(
        "--server",
        default="localhost:8500",
        help="HOST:PORT of the gRPC API, or dns:///HOST:PORT to spread calls over all addresses of a "
        "headless Service (default: localhost:8500)",
    )
    server.add_argument("--model", required=True, help="name of the model on the server")
    which = server.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="number of the model version (default: the newest)")
    which.add_argument("--label", help="version label on the server, such as stable or canary")
    server.add_argument(
        "--timeout-s",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        help=f"deadline of each call in seconds (default: {DEFAULT_TIMEOUT_S:g})",
    )
    server.add_argument(
        "--wait", action="store_true", help="wait for a server that is starting, within the deadline"
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls", action="store_true", help="use TLS; each of the flags below implies it")
    tls.add_argument(
        "--root-certificates", metavar="PEM", help="authorities that may sign the server's certificate"
    )
    tls.add_argument("--certificate-chain", metavar="PEM", help="this client's certificate, for mutual TLS")
    tls.add_argument("--private-key", metavar="PEM", help="this client's private key, for mutual TLS")
    tls.add_argument("--server-name", help="name in the server's certificate, if it differs from the address")


def client_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parsed flags as keyword arguments for `Client` and `AsyncClient`."""
    return {
        "server": arguments.server,
        "model": arguments.model,
        "version": arguments.version,
        "label": arguments.label,
        "timeout_s": arguments.timeout_s,
        "wait_for_ready": arguments.wait,
        "tls": _tls(arguments),
    }


def _tls(arguments: argparse.Namespace) -> Tls | None:
    files = (arguments.root_certificates, arguments.certificate_chain, arguments.private_key)
    if not (arguments.tls or any(files) or arguments.server_name):
        return None
    return Tls(*files, server_name=arguments.server_name)
