"""Read the Kubernetes objects of k8s/, and render kustomizations with kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BASE_FILES = sorted((ROOT / "k8s").glob("*.yaml"))
COMPONENTS = sorted(path.name for path in (ROOT / "components").iterdir())

Document = dict[str, Any]

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def read(text: str) -> list[Document]:
    """Return the objects of a YAML stream."""
    return [document for document in yaml.safe_load_all(text) if document]


BASE = [document for file in BASE_FILES for document in read(file.read_text())]


def name_of(document: Document) -> str:
    """Return KIND/NAME."""
    return f"{document['kind']}/{document['metadata']['name']}"


def find(documents: list[Document], name: str) -> Document:
    """Return the only object called KIND/NAME."""
    (document,) = [document for document in documents if name_of(document) == name]
    return document


def pod_spec(document: Document) -> Document:
    """Return the pod spec of a Pod, Job or Deployment; empty for other kinds."""
    pod = document if document["kind"] == "Pod" else document.get("spec", {}).get("template", {})
    spec: Document = pod.get("spec", {})
    return spec


def first_container(document: Document) -> Document:
    container: Document = pod_spec(document)["containers"][0]
    return container


def environment(container: Document) -> dict[str, str | None]:
    """Return variable → value; None where the value comes from elsewhere."""
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def render(directory: Path) -> list[Document]:
    """Return what `kubectl kustomize` prints.

    Raises:
      AssertionError: the directory cannot be rendered.
    """
    done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def write_kustomization(
    directory: Path, base: str = "k8s", components: Sequence[str] = (), **fields: Any
) -> None:
    """Create a directory with a user's kustomization of the base and components.

    Args:
      base: a directory of this repository.
      components: names in components/, in the order in which they apply.
      fields: further fields, such as `patches`.
    """
    directory.mkdir(parents=True)
    root = Path(os.path.relpath(ROOT, directory.resolve()))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(root / base)],
        "components": [str(root / "components" / name) for name in components],
        **fields,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
