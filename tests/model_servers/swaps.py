"""Five ways in which another model comes to be served under a version number that clients already know."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.model_servers.name_server import NameServer
from tests.model_servers.pictures import CLASSES
from tests.model_servers.real_servers import real_server
from tests.model_servers.real_versions import publish
from tests.model_servers.servers import reserved_port, spreading_calls

# Every label has another place in each model.
LABELS = {"A": CLASSES, "B": (*CLASSES[2:], *CLASSES[:2]), "C": (*CLASSES[4:], *CLASSES[:4])}

HOSTS = ["127.0.0.2", "127.0.0.3"]


@dataclasses.dataclass(frozen=True)
class Models:
    """Exported models to choose from, and a directory to work in.

    Attributes:
      saved: a SavedModel for each of LABELS.
      work: empty; everything that the servers read is put there.
    """

    saved: Mapping[str, Path]
    work: Path

    def base_path(self, name: str, first_version: str) -> Path:
        """Return a new base path with a model as version 1."""
        path = self.work / name
        path.mkdir()
        self.publish(first_version, path, 1)
        return path

    def publish(self, model: str, base_path: Path, number: int) -> None:
        """Add a model under a version number."""
        publish(self.saved[model], base_path, number)


@dataclasses.dataclass(frozen=True)
class Deployment:
    """Model A is served at an address, as version `number`.

    Attributes:
      swap: serves model B under that number, and returns once it answers.
      stays_available: whether a server answers at every moment of the swap.
      models_after: which of LABELS answer then.
    """

    address: str
    swap: Callable[[], None]
    number: int = 1
    stays_available: bool = False
    models_after: str = "B"


Way = Callable[[str, Models], "contextlib.AbstractContextManager[Deployment]"]


@contextlib.contextmanager
def restarted(program: str, models: Models) -> Iterator[Deployment]:
    """The models are removed and trained again, and the server is started again at the same address."""
    base_path = models.base_path("models", "A")
    with real_server(program, models.work) as server:

        def swap() -> None:
            server.end()
            shutil.rmtree(base_path)
            server.launch(models.base_path("models", "B"))
            server.wait_for_labels(LABELS["B"])

        server.launch(base_path)
        server.wait_for_labels(LABELS["A"])
        yield Deployment(server.address, swap)


@contextlib.contextmanager
def directory_replaced(program: str, models: Models) -> Iterator[Deployment]:
    """The server runs on while the version's directory is removed and another takes its place."""
    base_path = models.base_path("models", "A")
    with real_server(program, models.work) as server:

        def swap() -> None:
            shutil.rmtree(base_path / "1")
            server.wait_until_empty()  # a number is loaded again only after it was unloaded
            models.publish("B", base_path, 1)
            server.wait_for_labels(LABELS["B"])

        server.launch(base_path)
        server.wait_for_labels(LABELS["A"])
        yield Deployment(server.address, swap)


@contextlib.contextmanager
def other_base_path(program: str, models: Models) -> Iterator[Deployment]:
    """The server is started again with another --model_base_path."""
    with real_server(program, models.work) as server:

        def swap() -> None:
            server.end()
            server.launch(models.base_path("second", "B"))
            server.wait_for_labels(LABELS["B"])

        server.launch(models.base_path("first", "A"))
        server.wait_for_labels(LABELS["A"])
        yield Deployment(server.address, swap)


@contextlib.contextmanager
def two_servers(program: str, models: Models) -> Iterator[Deployment]:
    """A server with another volume is behind the same name; there is no more to swap."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(real_server(program, models.work))
        second = stack.enter_context(real_server(program, models.work))
        first.launch(models.base_path("first", "A"))
        second.launch(models.base_path("second", "B"))
        # Addresses that differ in the host only, as those of pods.
        port = stack.enter_context(reserved_port())
        for host, server in ((HOSTS[0], first), (HOSTS[1], second)):
            stack.enter_context(spreading_calls([server.address], f"{host}:{port}"))
        names = stack.enter_context(NameServer(HOSTS))
        first.wait_for_labels(LABELS["A"])
        second.wait_for_labels(LABELS["B"])
        yield Deployment(names.uri(port), lambda: None, stays_available=True, models_after="AB")


@contextlib.contextmanager
def volume_rolled_back(program: str, models: Models) -> Iterator[Deployment]:
    """Version 2 is lost when the volume returns to an older state; the next training run writes another."""
    base_path = models.base_path("models", "C")
    models.publish("A", base_path, 2)
    with real_server(program, models.work) as server:

        def swap() -> None:
            shutil.rmtree(base_path / "2")
            server.wait_for_labels(LABELS["C"])
            models.publish("B", base_path, 2)
            server.wait_for_labels(LABELS["B"])

        server.launch(base_path)
        server.wait_for_labels(LABELS["A"])
        yield Deployment(server.address, swap, number=2, stays_available=True)


WAYS: dict[str, Way] = {
    "restart": restarted,
    "directory replaced": directory_replaced,
    "other base path": other_base_path,
    "two servers behind one name": two_servers,
    "rolled-back volume": volume_rolled_back,
}
