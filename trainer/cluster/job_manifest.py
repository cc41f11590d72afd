"""The training Job of k8s/ or of an overlay, as a dictionary, and what one run changes in it."""

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
"""In which the trainer runs, in the Job's pods."""

Manifest = dict[str, Any]

_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_COMPONENT = "app.kubernetes.io/component"


def load_job(directory: Path) -> Manifest:
    """Return the one Job of a directory whose label says that it trains.

    A kustomization is rendered with kubectl, but for one that only lists files, as that of k8s/: these are
    read as they are, and so a pod of the cluster needs no kubectl.

    Raises:
      ConfigError: there is no such directory, it cannot be rendered, or it has none or several such Jobs.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"--overlay must be a directory with manifests, such as k8s. Received: {directory}."
        )
    try:
        found = [document for document in yaml.safe_load_all(_text(directory)) if _trains(document)]
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
    """Return the Job of a new run: another name, and what was asked for.

    Args:
      settings: of TrainConfig; they win over the TOML file and over the manifest's flags.
      workers: of an Indexed Job; None: as many as the manifest says.
    Raises:
      ConfigError: `workers`, and the Job is not Indexed; or it has no container of the trainer's.
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
                f"--workers needs an Indexed Job. Received: {manifest['metadata']['name']}, which is not. "
                "Add components/multi-node to your kustomization, and name that with --overlay."
            )
        job["spec"].update(completions=workers, parallelism=workers)
        others = [variable for variable in container.get("env", []) if variable["name"] != "WORKERS"]
        container["env"] = [*others, {"name": "WORKERS", "value": str(workers)}]
    return job


def trainer_container(job: Manifest) -> dict[str, Any]:
    """Return the container in which the trainer runs.

    Raises:
      ConfigError: there is none of its name.
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


def _trains(document: Any) -> bool:
    if not isinstance(document, dict) or document.get("kind") != "Job":
        return False
    return ((document.get("metadata") or {}).get("labels") or {}).get(_COMPONENT) == "training"


def _text(directory: Path) -> str:
    kustomization = next((directory / name for name in _KUSTOMIZATIONS if (directory / name).is_file()), None)
    files = _listed(kustomization) if kustomization else sorted(directory.glob("*.yaml"))
    if files is None:
        return _rendered(directory)
    return "\n---\n".join(file.read_text(encoding="utf-8") for file in files)


def _listed(kustomization: Path) -> Sequence[Path] | None:
    """Return the files that a kustomization lists; None: it does more than that."""
    content = yaml.safe_load(kustomization.read_text(encoding="utf-8")) or {}
    files = [kustomization.parent / name for name in content.get("resources", [])]
    plain = set(content) <= {"apiVersion", "kind", "resources"}
    return files if plain and all(file.is_file() for file in files) else None


def _rendered(directory: Path) -> str:
    try:
        done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{directory} is rendered with kubectl, which is not installed.") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise ConfigError(f"{directory} cannot be rendered: {said[-500:]}.") from error
    return done.stdout
