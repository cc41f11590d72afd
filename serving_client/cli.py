"""`python -m serving_client COMMAND`: results on stdout, errors in one line on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

from serving_client import preprocessing
from serving_client.client import Client
from serving_client.codec import Prediction
from serving_client.errors import ImageError, ServingError

# Images asked for together; a bad one among them costs a second look at so many.
_CHUNK = 64


def main(argv: Sequence[str]) -> int:
    """Run one command; return the exit code: 0, 1 (something could not be answered) or 2 (usage)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        with Client(
            arguments.server,
            model=arguments.model,
            version=arguments.version,
            label=arguments.label,
            timeout_s=arguments.timeout_s,
            wait_for_ready=arguments.wait,
        ) as client:
            return int(arguments.run(client, arguments))
    except ServingError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving_client",
        description="Ask an image classifier on TensorFlow Serving.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--server", default="localhost:8500", help="HOST:PORT of the gRPC API (default: localhost:8500)"
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

    classify = commands.add_parser("classify", parents=[server], help="print the labels of images")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG, PNG, BMP or GIF files")
    classify.add_argument("--top-k", type=_positive, default=1, help="labels per image (default: 1)")
    classify.add_argument(
        "--via",
        choices=("images", "encoded"),
        default="images",
        help="preprocess here and send float32, or send the files' bytes (default: images)",
    )
    classify.add_argument("--json", action="store_true", help="one JSON object per image and line")
    classify.set_defaults(run=_classify)

    describe = commands.add_parser("describe", parents=[server], help="print the model card as JSON")
    describe.set_defaults(run=_describe)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1. Received: {text!r}")
    return int(text)


def _describe(client: Client, arguments: argparse.Namespace) -> int:
    print(json.dumps(client.describe().raw, indent=2, ensure_ascii=False))
    return 0


def _classify(client: Client, arguments: argparse.Namespace) -> int:
    """Answer what can be answered; a bad image is reported and the others go on."""
    bad: list[str] = []
    table: list[tuple[str, Prediction]] = []
    try:
        for name, prediction in _answers(client, arguments, bad):
            if arguments.json:
                print(_as_json(name, prediction))
            else:
                table.append((name, prediction))
    finally:  # a server that goes away midway takes nothing of what it has answered
        if table:
            _print_table(table)
        for message in bad:
            print(f"python -m serving_client: {message}", file=sys.stderr)
    return 1 if bad else 0


def _as_json(name: str, prediction: Prediction) -> str:
    scores = [{"label": score.label, "probability": score.probability} for score in prediction.scores]
    answer = {"file": name, "version": prediction.version, "scores": scores}
    return json.dumps(answer, ensure_ascii=False)


def _answers(
    client: Client, arguments: argparse.Namespace, bad: list[str]
) -> Iterator[tuple[str, Prediction]]:
    for start in range(0, len(arguments.images), _CHUNK):
        names = arguments.images[start : start + _CHUNK]
        try:
            predictions = client.classify(names, top_k=arguments.top_k, via=arguments.via)
        except ImageError:
            names = _decodable(names, bad)
            predictions = client.classify(names, top_k=arguments.top_k, via=arguments.via)
        yield from zip(names, predictions, strict=True)


def _decodable(names: Sequence[str], bad: list[str]) -> list[str]:
    """Return the names of the images that can be decoded; say why of the others."""
    good = []
    for name in names:
        try:
            preprocessing.decode(name)
        except ImageError as error:
            bad.append(str(error))
        else:
            good.append(name)
    return good


def _print_table(answers: Sequence[tuple[str, Prediction]]) -> None:
    rows = [("file", "label", "probability")]
    for name, prediction in answers:
        for score in prediction.scores:
            rows.append((name, score.label, f"{score.probability:.4f}"))
            name = ""
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for file, label, probability in rows:
        print(f"{file:{widths[0]}}  {label:{widths[1]}}  {probability:>{widths[2]}}")
