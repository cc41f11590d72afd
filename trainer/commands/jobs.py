"""`submit`, `jobs`, `logs` and `cancel`: the training Jobs of a cluster."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

from trainer.commands import settings
from trainer.commands.arguments import Commands, add_command, add_namespace, add_overlay

if TYPE_CHECKING:  # the Kubernetes client takes a second to import
    from trainer.cluster.jobs import TrainingJobs


def add(commands: Commands) -> None:
    """Add the four commands."""
    submit = add_command(commands, "submit", "start a training run on a cluster", _submit, extra="cluster")
    add_overlay(submit)
    submit.add_argument(
        "--workers",
        type=_at_least_1,
        metavar="N",
        help="number of workers, for a Job that trains on several nodes (components/multi-node)",
    )
    submit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of this run, such as epochs=20; overrides the TOML file; may be repeated",
    )
    submit.add_argument("--follow", action="store_true", help="stream its log; exit with its exit code")

    jobs = add_command(commands, "jobs", "list the training runs on a cluster", _jobs, extra="cluster")
    jobs.add_argument("--json", action="store_true", help="print one JSON object per line")
    add_namespace(jobs)

    logs = add_command(
        commands, "logs", "print the log of a training run on a cluster", _logs, extra="cluster"
    )
    logs.add_argument("job", metavar="JOB", help="name of the Job, as `submit` and `jobs` print it")
    logs.add_argument(
        "--follow", action="store_true", help="stream the log until the run ends; exit with its exit code"
    )
    add_namespace(logs)

    cancel = add_command(commands, "cancel", "end a training run on a cluster", _cancel, extra="cluster")
    cancel.add_argument("job", metavar="JOB", help="name of the Job, as `submit` and `jobs` print it")
    add_namespace(cancel)


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1. Received: {text!r}")
    return int(text)


def _connect(arguments: argparse.Namespace, overlay_namespace: str | None = None) -> TrainingJobs:
    from trainer.cluster import api_server
    from trainer.cluster.jobs import TrainingJobs

    return TrainingJobs(arguments.namespace or overlay_namespace or api_server.current_namespace())


def _submit(arguments: argparse.Namespace) -> None:
    from trainer.cluster import job_manifest

    given = settings.from_pairs(arguments.set)
    job = job_manifest.job_for_run(job_manifest.load_job(arguments.overlay), given, arguments.workers)
    jobs = _connect(arguments, job["metadata"].pop("namespace", None))
    jobs.create(job)
    name = job["metadata"]["name"]
    print(f"Submitted Job {name} to namespace {jobs.namespace}.", file=sys.stderr)
    if arguments.follow:
        _follow(jobs, name)
    else:
        print(name)
        _print_next_commands(jobs, name)


def _jobs(arguments: argparse.Namespace) -> None:
    rows = [_row(job) for job in _connect(arguments).all()]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("job", "state", "started", "pods failed", "why", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _row(job: Any) -> dict[str, object]:
    from trainer.cluster.job_outcome import job_outcome

    outcome = job_outcome(job)
    started: datetime.datetime | None = job.status.start_time
    if outcome:
        state = outcome[0].lower()
    elif job.spec.suspend:
        state = "suspended"
    else:
        state = "running" if job.status.ready else "waiting"
    return {
        "job": job.metadata.name,
        "state": state,
        "started": started.isoformat() if started else None,
        "pods_failed": job.status.failed or 0,
        "why": outcome[1] if outcome and outcome[0] == "Failed" else None,
    }


def _logs(arguments: argparse.Namespace) -> None:
    from trainer.cluster import pod_states
    from trainer.cluster.jobs import worker_of

    jobs = _connect(arguments)
    jobs.get(arguments.job)
    if arguments.follow:
        _follow(jobs, arguments.job)
        return
    chiefs = [pod for pod in jobs.pods(arguments.job) if worker_of(pod) == 0]
    if not chiefs:
        print(f"Job {arguments.job} has no pod: none was started yet, or it was deleted.", file=sys.stderr)
    for pod in chiefs[-1:]:
        if not pod_states.has_started(pod):
            print(f"Pod {pod.metadata.name} has not started yet.", file=sys.stderr)
            for message in pod_states.describe(pod):
                print(message, file=sys.stderr)
    for pod in [pod for pod in chiefs if pod_states.has_started(pod)][-1:]:
        for line in jobs.log(pod.metadata.name, follow=False):
            print(line.partition(" ")[2])


def _cancel(arguments: argparse.Namespace) -> None:
    jobs = _connect(arguments)
    jobs.delete(arguments.job)
    print(f"Deleted Job {arguments.job}. Its pods save their state and end.")


def _follow(jobs: TrainingJobs, name: str) -> None:
    from trainer.cluster import log_stream

    try:
        log_stream.stream_logs(jobs, name)
    except KeyboardInterrupt:
        print(f"\nJob {name} keeps running.", file=sys.stderr)
        _print_next_commands(jobs, name)
        raise
    print(f"Job {name} is complete.", file=sys.stderr)


def _print_next_commands(jobs: TrainingJobs, name: str) -> None:
    for command, flag in (("logs", " --follow"), ("cancel", "")):
        print(f"  python -m trainer {command} {name} --namespace {jobs.namespace}{flag}", file=sys.stderr)
