"""`python -m serving_client COMMAND`: results on stdout, errors in one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from serving_client import commands, connection
from serving_client.errors import ServingError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 (something could not be answered) or 2 (usage)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except ServingError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all that can be said on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving_client",
        description="Ask an image classifier on TensorFlow Serving.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    server = connection.flags()
    _add_classify(subparsers, server)
    describe = subparsers.add_parser(
        "describe", parents=[server], help="print what the model says of itself: labels, input, metrics"
    )
    describe.add_argument("--json", action="store_true", help="the whole model card")
    describe.set_defaults(run=commands.describe)
    status = subparsers.add_parser(
        "status", parents=[server], help="print which versions the server has, and what became of them"
    )
    status.add_argument("--json", action="store_true", help="one JSON object per version and line")
    status.set_defaults(run=commands.status)
    _add_bench(subparsers, server)
    _add_gateway(subparsers, server)
    return parser


def _add_classify(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], server: argparse.ArgumentParser
) -> None:
    classify = subparsers.add_parser("classify", parents=[server], help="print the labels of images")
    classify.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="JPEG, PNG, BMP or GIF files, folders, patterns, - for an image on standard input",
    )
    classify.add_argument("--top", type=_at_least_1, default=1, help="labels per image (default: 1)")
    classify.add_argument(
        "--via",
        choices=("images", "encoded"),
        default="images",
        help="preprocess here and send float32, or send the files' bytes (default: images)",
    )
    form = classify.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per image and line")
    form.add_argument("--csv", action="store_true", help="one row per image and label")
    classify.set_defaults(run=commands.classify)


def _add_bench(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], server: argparse.ArgumentParser
) -> None:
    bench = subparsers.add_parser(
        "bench", parents=[server], help="measure how quickly the server answers, both ways of sending"
    )
    bench.add_argument("image", nargs="?", metavar="IMAGE", help="file to send (default: noise)")
    bench.add_argument("--requests", type=_at_least_1, default=200, help="calls each way (default: 200)")
    bench.add_argument("--concurrency", type=_at_least_1, default=8, help="calls at a time (default: 8)")
    bench.add_argument("--batch", type=_at_least_1, default=1, help="images in a call (default: 1)")
    bench.add_argument("--json", action="store_true", help="one JSON object per way and line")
    bench.set_defaults(run=commands.bench)


def _add_gateway(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], server: argparse.ArgumentParser
) -> None:
    gateway = subparsers.add_parser(
        "gateway", parents=[server], help="answer over HTTP, and on a web page (extra `gateway`)"
    )
    http = gateway.add_argument_group("HTTP")
    http.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    http.add_argument("--port", type=int, default=8080, help="port (default: 8080)")
    limits = gateway.add_argument_group("limits")
    for flag, default, text in (
        ("--max-body-mb", 32, "MiB of one request"),
        ("--max-images", 32, "images in one request"),
        ("--max-megapixels", 50, "megapixels of one image"),
        ("--max-requests", 32, "requests that are read and answered at the same time"),
        ("--max-waiting", 20_000, "further requests that wait for their turn; more get 503"),
    ):
        limits.add_argument(
            flag, type=_at_least_1, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    limits.add_argument(
        "--allow-url-host",
        action="append",
        default=[],
        metavar="HOST",
        help="fetch pictures from this host; may be repeated (default: none). Private addresses are refused",
    )
    gateway.set_defaults(run=commands.gateway)


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1. Received: {text!r}")
    return int(text)
