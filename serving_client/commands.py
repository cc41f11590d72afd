"""The commands. Each takes its parsed arguments, prints its results, and returns the exit code."""

from __future__ import annotations

import argparse
import dataclasses

from serving_client import image_files, output, throughput
from serving_client.errors import ImageError, InvalidRequest
from serving_client.flags import open_client


def classify(arguments: argparse.Namespace) -> int:
    """Print the labels of all valid images, and an error for each invalid one; 1 if there was any."""
    files = image_files.find(arguments.images)
    open_writer = (
        output.json_writer if arguments.json else output.csv_writer if arguments.csv else output.table_writer
    )
    invalid = 0
    with open_client(arguments) as client:
        write = open_writer(files.names, client.describe().labels)
        progress = output.ProgressBar(len(files))
        try:
            results = client.stream(files, top_k=arguments.top, via=arguments.via)
            for name, result in zip(files.names, results, strict=True):
                progress.advance()
                if isinstance(result, ImageError):
                    invalid += 1
                    progress.clear()
                    output.print_error(str(result))
                else:
                    write(name, result)
        finally:
            progress.clear()
    return 1 if invalid else 0


def describe(arguments: argparse.Namespace) -> int:
    """Print the model card."""
    with open_client(arguments) as client:
        card = client.describe()
    if arguments.json:
        output.print_json({**card.raw, "version": card.version}, indent=2)
    else:
        print(output.format_card(card))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the state of each version; 1 if none is available."""
    with open_client(arguments) as client:
        statuses = client.status()
    if arguments.json:
        for one in statuses:
            output.print_json(dataclasses.asdict(one))
    else:
        print(output.format_statuses(statuses))
    return 0 if any(one.state == "AVAILABLE" for one in statuses) else 1


def bench(arguments: argparse.Namespace) -> int:
    """Print the server's throughput and latency; 1 if a call failed."""
    with open_client(arguments) as client:
        measured = throughput.measure(
            client,
            arguments.image,
            requests=arguments.requests,
            concurrency=arguments.concurrency,
            batch=arguments.batch,
        )
    if arguments.json:
        for one in measured:
            output.print_json(dataclasses.asdict(one))
    else:
        print(output.align(throughput.table_rows(measured)))
    for one in measured:
        if one.failed:
            output.print_error(f"{one.failed} calls failed. The first: {one.first_failure}")
    return 1 if any(one.failed for one in measured) else 0


def gateway(arguments: argparse.Namespace) -> int:
    """Serve HTTP until a signal stops it."""
    try:
        from serving_client.gateway import server
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"The gateway needs the extra `gateway` ({error.name} is not installed). Run: "
            "pip install 'image-classifier-on-kubernetes[gateway]'"
        ) from error
    return server.run(arguments)
