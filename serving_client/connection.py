"""Which server and model a command asks, and how: flags → arguments of the clients."""

from __future__ import annotations

import argparse
from typing import Any

from serving_client.channel import Tls


def flags() -> argparse.ArgumentParser:
    """Return a parent for the parsers of all commands that ask a server."""
    parser = argparse.ArgumentParser(add_help=False)
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
    which.add_argument("--label", help="label that the server has for a version, such as stable or canary")
    server.add_argument(
        "--timeout-s", type=float, default=10.0, help="deadline of each call in seconds (default: 10)"
    )
    server.add_argument(
        "--wait", action="store_true", help="within the deadline, wait for a server that is starting"
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls", action="store_true", help="use TLS; given by each of the flags below")
    tls.add_argument("--root-certificates", metavar="PEM", help="whom the server's certificate must be from")
    tls.add_argument("--certificate-chain", metavar="PEM", help="this client's certificate, for mutual TLS")
    tls.add_argument("--private-key", metavar="PEM", help="its key")
    tls.add_argument("--server-name", help="name in the server's certificate, if it is not the address")
    return parser


def of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what they say, as the keyword arguments of `Client` and `AsyncClient`."""
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
