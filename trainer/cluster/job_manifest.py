"""The manifest of the training Job, and the changes that one run makes to it."""

from __future__ import annotations

import copy
import datetime
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer import config
from trainer.errors import ConfigError

CONTAINER = "trainer"
"""Name of the container that runs the trainer."""

Manifest = dict[str, Any]

_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_COMPONENT = "app.kubernetes.io/component"


def load_job(directory: Path) -> Manifest:
    """Return the one Job of a directory that has the label of training Jobs.

    kubectl renders a kustomization. If it only lists files, as that of k8s/ does, the files are read
    directly, so that a pod of the cluster needs no kubectl.

    Raises:
      ConfigError: the directory is missing or cannot be rendered, or it has no such Job or several.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"--overlay must be a directory with manifests, such as k8s. Received: {directory}."
        )
    try:
        found = [document for document in yaml.safe_load_all(_read(directory)) if _is_training_job(document)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{directory}: a manifest cannot be read: {' '.join(str(error).split())}."
        ) from error
    if len(found) != 1:
        raise ConfigError(
            f"{directory} must have one Job with the label {_COMPONENT}: training. Received: {len(found)}."
        )
    return dict(found[0])


def job_for_run(manifest: Manifest, settings: Mapping[str, Any], workers: int | None) -> Manifest:
    """Return the Job of a new run, with a name, settings and workers of its own.

    Args:
      settings: of TrainConfig. They override the TOML file and the manifest's flags.
      workers: of an Indexed Job; None keeps the manifest's number.
    Raises:
      ConfigError: `workers` is given for a Job that is not Indexed, or the Job has no trainer container.
    """
    job = copy.deepcopy(manifest)
    now = datetime.datetime.now(datetime.timezone.utc)
    job["metadata"]["name"] += f"-{now:%y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    job.pop("status", None)
    container = trainer_container(job)
    container["args"] = [*container.get("args", []), *_flags(settings)]
    if workers is not None:
        if job["spec"].get("completionMode") != "Indexed":
            raise ConfigError(
                f"--workers needs an Indexed Job. Received: {manifest['metadata']['name']}, which is not "
                "Indexed. Add components/multi-node to your kustomization, and name that with --overlay."
            )
        job["spec"].update(completions=workers, parallelism=workers)
        others = [variable for variable in container.get("env", []) if variable["name"] != "WORKERS"]
        container["env"] = [*others, {"name": "WORKERS", "value": str(workers)}]
    return job


def trainer_container(job: Manifest) -> dict[str, Any]:
    """Return the container that runs the trainer.

    Raises:
      ConfigError: the Job has no container of that name.
    """
    containers = job["spec"]["template"]["spec"]["containers"]
    for container in containers:
        if container["name"] == CONTAINER:
            found: dict[str, Any] = container
            return found
    names = ", ".join(one["name"] for one in containers)
    raise ConfigError(f"Job {job['metadata']['name']} must have a container {CONTAINER}. Received: {names}.")


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags = []
    for key, value in settings.items():
        flag = config.flag_of(key)
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags.append(f"{flag}={value}")
    return flags


def _is_training_job(document: Any) -> bool:
    if not isinstance(document, dict) or document.get("kind") != "Job":
        return False
    return ((document.get("metadata") or {}).get("labels") or {}).get(_COMPONENT) == "training"


def _read(directory: Path) -> str:
    kustomization = next((directory / name for name in _KUSTOMIZATIONS if (directory / name).is_file()), None)
    files = _listed_files(kustomization) if kustomization else sorted(directory.glob("*.yaml"))
    if files is None:
        return _render(directory)
    return "\n---\n".join(file.read_text(encoding="utf-8") for file in files)


def _listed_files(kustomization: Path) -> Sequence[Path] | None:
    """Return the files that a kustomization lists, or None if it does more than that."""
    content = yaml.safe_load(kustomization.read_text(encoding="utf-8")) or {}
    files = [kustomization.parent / name for name in content.get("resources", [])]
    plain = set(content) <= {"apiVersion", "kind", "resources"}
    return files if plain and all(file.is_file() for file in files) else None


def _render(directory: Path) -> str:
    try:
        done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} must be rendered with kubectl, which is not installed. Install kubectl."
        ) from error
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.split())
        raise ConfigError(f"{directory} cannot be rendered: {message[-500:]}.") from error
    return done.stdout
