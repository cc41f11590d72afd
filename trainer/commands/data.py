"""`push-data` and `fetch-data`: bring images to the volume that training Jobs read."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.commands.arguments import Commands, add_command, add_overlay


def add(commands: Commands) -> None:
    """Add the two commands."""
    push = add_command(
        commands,
        "push-data",
        "send a folder of images to the volume of the training Jobs",
        _push,
        extra="cluster",
    )
    push.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="folder of images; files that the claim has are skipped, and so are hidden files",
    )
    push.add_argument("--claim", default="data", help="name of the PersistentVolumeClaim (default: data)")
    add_overlay(push)
    push.add_argument(
        "--timeout-s",
        type=float,
        default=300,
        help="how long the receiving pod may take to start, in seconds (default: 300)",
    )

    fetch = add_command(
        commands,
        "fetch-data",
        "fetch an archive of images and unpack it, unless the folder has it",
        _fetch,
        extra="fetch",
    )
    fetch.add_argument("url", metavar="URL", help="https, s3 or gs; .tar, .tar.gz or .zip")
    fetch.add_argument(
        "directory", type=Path, metavar="DIR", help="new or empty folder; it appears once it is complete"
    )
    fetch.add_argument(
        "--sha256", metavar="HEX", help="SHA-256 of the archive, checked before it is unpacked"
    )


def _push(arguments: argparse.Namespace) -> None:
    # The Kubernetes client takes a second to import.
    from trainer.cluster import api_server, job_manifest, pushing

    job = job_manifest.load_job(arguments.overlay)
    image = job_manifest.trainer_container(job)["image"]
    namespace = arguments.namespace or job["metadata"].get("namespace") or api_server.current_namespace()
    pushed = pushing.push(arguments.directory, namespace, arguments.claim, image, arguments.timeout_s)
    print(
        f"Pushed {arguments.directory} to claim {arguments.claim} in namespace {namespace}: "
        f"{pushed.files:,} files, {pushed.skipped:,} skipped because the claim has them, "
        f"{pushed.sent_bytes / 1e6:,.1f} MB sent"
    )


def _fetch(arguments: argparse.Namespace) -> None:
    from trainer.cluster import fetching

    fetched = fetching.fetch(arguments.url, arguments.directory, arguments.sha256)
    if fetched:
        print(f"Fetched {arguments.url} into {arguments.directory}")
    else:
        print(f"{arguments.directory} already has the images of {arguments.url}")
