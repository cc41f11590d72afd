"""The flags that select a server and a model, and the client options they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from serving_client.arguments import check_count, check_model, check_server, check_timeout, check_version
from serving_client.client import Client
from serving_client.connection import DEFAULT_TIMEOUT_S, Tls
from serving_client.errors import InvalidRequest


class UsageError(InvalidRequest):
    """The flags cannot be used together, or name a file that cannot be read."""


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, as the commands report errors."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}. See {self.prog} --help.\n")


def checked(check: Callable[[Any], Any], convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """Return a flag's type: it converts the text, and then checks the value as the client does."""

    def parse(text: str) -> Any:
        try:
            value: Any = convert(text)
        except ValueError:
            value = text  # the check says what it must be
        try:
            return check(value)
        except InvalidRequest as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error

    return parse


count = checked(lambda value: check_count("N", value), int)
"""The type of a flag that takes a whole number of at least 1."""


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all commands share."""
    server = parser.add_argument_group("server and model")
    server.add_argument(
        "--server",
        type=checked(check_server),
        default="localhost:8500",
        help="HOST:PORT of the gRPC API, or dns:///HOST:PORT to spread calls over all addresses of a "
        "headless Service (default: localhost:8500)",
    )
    server.add_argument(
        "--model", type=checked(check_model), required=True, help="name of the model on the server"
    )
    which = server.add_mutually_exclusive_group()
    which.add_argument(
        "--version",
        type=checked(lambda version: check_version(version, None), int),
        metavar="N",
        help="number of the model version (default: the newest)",
    )
    which.add_argument(
        "--label",
        type=checked(lambda label: check_version(None, label)),
        help="version label on the server, such as stable or canary",
    )
    server.add_argument(
        "--timeout-s",
        type=checked(check_timeout, float),
        metavar="SECONDS",
        default=DEFAULT_TIMEOUT_S,
        help="time for each batch of images, or for the calls of another command, retries included "
        f"(default: {DEFAULT_TIMEOUT_S:g})",
    )
    server.add_argument(
        "--wait", action="store_true", help="wait for a server that is starting, within --timeout-s"
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls", action="store_true", help="use TLS; each of the flags below implies it")
    tls.add_argument(
        "--root-certificates", metavar="PEM", help="authorities that may sign the server's certificate"
    )
    tls.add_argument("--certificate-chain", metavar="PEM", help="this client's certificate, for mutual TLS")
    tls.add_argument("--private-key", metavar="PEM", help="this client's private key, for mutual TLS")
    tls.add_argument("--server-name", help="name in the server's certificate, if it differs from the address")


def open_client(arguments: argparse.Namespace) -> Client:
    """Open the client that the parsed flags describe.

    Raises:
      UsageError: it refuses them.
    """
    try:
        return Client(**client_options(arguments))
    except InvalidRequest as error:
        raise UsageError(str(error)) from error


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
