"""`push-data`, `fetch-data`: images to where training Jobs find them."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.commands.arguments import Commands, add_command, add_overlay


def add(commands: Commands) -> None:
    """Add the two commands."""
    push = add_command(
        commands,
        "push-data",
        "send a folder of images to the claim of the training Jobs",
        _push,
        extra="cluster",
    )
    push.add_argument(
        "directory", type=Path, metavar="DIR", help="what is not there yet is sent; hidden files are left out"
    )
    push.add_argument("--claim", default="data", help="PersistentVolumeClaim (default: data)")
    add_overlay(push)
    push.add_argument(
        "--timeout-s",
        type=float,
        default=300,
        help="within which its pod must run, in seconds (default: 300)",
    )

    fetch = add_command(
        commands,
        "fetch-data",
        "fetch an archive of images into a folder, unless it is there",
        _fetch,
        extra="fetch",
    )
    fetch.add_argument("url", metavar="URL", help="https, s3 or gs; .tar, .tar.gz or .zip")
    fetch.add_argument(
        "directory", type=Path, metavar="DIR", help="new or empty; it appears when everything is in it"
    )
    fetch.add_argument("--sha256", metavar="HEX", help="of the archive; checked before it is unpacked")


def _push(arguments: argparse.Namespace) -> None:
    # The cluster's client takes a second to import.
    from trainer.cluster import api_server, job_manifest, pushing

    job = job_manifest.load_job(arguments.overlay)
    image = job_manifest.trainer_container(job)["image"]
    namespace = arguments.namespace or job["metadata"].get("namespace") or api_server.current_namespace()
    done = pushing.push(arguments.directory, namespace, arguments.claim, image, arguments.timeout_s)
    print(
        f"Pushed {arguments.directory} to claim {arguments.claim} in namespace {namespace}: {done.files:,} "
        f"files, of which {done.already:,} were there; {done.sent_bytes / 1e6:,.1f} MB sent"
    )


def _fetch(arguments: argparse.Namespace) -> None:
    from trainer.cluster import fetching

    done = fetching.fetch(arguments.url, arguments.directory, arguments.sha256)
    print(f"{'Fetched' if done else 'There already:'} {arguments.url} in {arguments.directory}")
