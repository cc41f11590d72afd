"""The commands: each takes its parsed arguments, prints, and returns the exit code."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from serving_client import bench as benchmark
from serving_client import connection, image_files, output
from serving_client.client import Client
from serving_client.errors import ImageError, InvalidRequest


def classify(arguments: argparse.Namespace) -> int:
    """Answer what can be answered; a bad image is reported and the others go on."""
    files = image_files.find(arguments.images)
    form = output.json_lines if arguments.json else output.csv_rows if arguments.csv else output.table
    bad = 0
    with Client(**connection.of(arguments)) as client:
        write = form(files.names, client.describe().labels)
        counter = output.Counter(len(files))
        try:
            results = client.stream(files, top_k=arguments.top, via=arguments.via)
            for name, result in zip(files.names, results, strict=True):
                counter.add()
                if isinstance(result, ImageError):
                    bad += 1
                    counter.clear()
                    print(f"python -m serving_client: {result}", file=sys.stderr)
                else:
                    write(name, result)
        finally:
            counter.clear()
    return 1 if bad else 0


def describe(arguments: argparse.Namespace) -> int:
    """Print the model card."""
    with Client(**connection.of(arguments)) as client:
        card = client.describe()
    if arguments.json:
        print(json.dumps({**card.raw, "version": card.version}, indent=2, ensure_ascii=False))
    else:
        print(output.card(card))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the versions; 1 if none is available."""
    with Client(**connection.of(arguments)) as client:
        found = client.status()
    if arguments.json:
        for one in found:
            print(json.dumps(dataclasses.asdict(one), ensure_ascii=False))
    else:
        print(output.statuses(found))
    return 0 if any(one.state == "AVAILABLE" for one in found) else 1


def bench(arguments: argparse.Namespace) -> int:
    """Print how quickly the server answers; 1 if a call failed."""
    with Client(**connection.of(arguments)) as client:
        figures = benchmark.measure(
            client,
            arguments.image,
            requests=arguments.requests,
            concurrency=arguments.concurrency,
            batch=arguments.batch,
        )
    if arguments.json:
        for one in figures:
            print(json.dumps(dataclasses.asdict(one)))
    else:
        print(output.columns(benchmark.rows(figures)))
    for one in figures:
        if one.failed:
            print(
                f"python -m serving_client: {one.failed} calls failed: {one.first_failure}", file=sys.stderr
            )
    return 1 if any(one.failed for one in figures) else 0


def gateway(arguments: argparse.Namespace) -> int:
    """Serve HTTP until it is told to stop."""
    try:
        from serving_client.gateway import command
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"The gateway needs the extra `gateway` ({error.name} is missing). "
            "pip install 'image-classifier-on-kubernetes[gateway]'"
        ) from error
    return command.run(arguments)
