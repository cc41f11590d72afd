"""`python -m serving_client COMMAND`: prints results on stdout, and each error as one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from serving_client import commands, output
from serving_client.errors import ServingError
from serving_client.flags import Parser, UsageError, add_server_flags, count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
      0 for success, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C, 141 if the reader of stdout has
      gone.
    Raises:
      SystemExit: the arguments cannot be parsed (2), or ask for help (0).
    """
    output.accept_any_text()
    arguments = build_parser().parse_args(argv)
    try:
        try:
            code = int(arguments.run(arguments))
        except ServingError as error:
            output.print_error(str(error))
            code = 2 if isinstance(error, UsageError) else 1
        except KeyboardInterrupt:
            code = 130
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `... | head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def build_parser() -> Parser:
    """Return the parser for all commands."""
    parser = Parser(
        prog=output.PROGRAM,
        description="Call an image classifier on TensorFlow Serving.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_classify(subparsers)
    describe = subparsers.add_parser("describe", help="print the model card: labels, input, metrics")
    add_server_flags(describe)
    describe.add_argument("--json", action="store_true", help="print the whole model card as JSON")
    describe.set_defaults(run=commands.describe)
    status = subparsers.add_parser("status", help="print the state of each model version on the server")
    add_server_flags(status)
    status.add_argument("--json", action="store_true", help="print one JSON object per version and line")
    status.set_defaults(run=commands.status)
    _add_bench(subparsers)
    _add_gateway(subparsers)
    return parser


def _add_classify(subparsers: argparse._SubParsersAction[Parser]) -> None:
    classify = subparsers.add_parser("classify", help="print the labels of images")
    add_server_flags(classify)
    classify.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="JPEG, PNG, BMP, GIF, WebP, HEIC or AVIF files, folders, or patterns; - reads an image from "
        "standard input",
    )
    classify.add_argument("--top", type=count, default=1, metavar="N", help="labels per image (default: 1)")
    classify.add_argument(
        "--via",
        choices=("images", "encoded"),
        default="images",
        help="images: preprocess here and send float32; encoded: send the files' bytes (default: images)",
    )
    form = classify.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per image and line")
    form.add_argument("--csv", action="store_true", help="print one row per image and label")
    classify.set_defaults(run=commands.classify)


def _add_bench(subparsers: argparse._SubParsersAction[Parser]) -> None:
    bench = subparsers.add_parser(
        "bench", help="measure the server's throughput and latency for both request types"
    )
    add_server_flags(bench)
    bench.add_argument("image", nargs="?", metavar="IMAGE", help="file to send (default: noise)")
    for flag, default, text in (
        ("--requests", 200, "calls per request type"),
        ("--concurrency", 8, "concurrent calls"),
        ("--batch", 1, "images per call"),
    ):
        bench.add_argument(
            flag, type=count, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    bench.add_argument("--json", action="store_true", help="print one JSON object per request type and line")
    bench.set_defaults(run=commands.bench)


def _add_gateway(subparsers: argparse._SubParsersAction[Parser]) -> None:
    gateway = subparsers.add_parser("gateway", help="serve an HTTP API and a web page (extra `gateway`)")
    add_server_flags(gateway)
    http = gateway.add_argument_group("HTTP")
    http.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    http.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    limits = gateway.add_argument_group("limits")
    for flag, default, text in (
        ("--max-body-mb", 32, "MiB per request"),
        ("--max-images", 32, "images per request"),
        ("--max-megapixels", 50, "megapixels per image"),
        ("--max-requests", 32, "requests that are read and answered at the same time"),
        ("--max-waiting", 20_000, "further requests that may wait; the gateway refuses more with 503"),
    ):
        limits.add_argument(
            flag, type=count, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    gateway.set_defaults(run=commands.gateway)
