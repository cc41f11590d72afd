"""Another model under the same version number: its labels are in another order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_client import Client
from serving_client.protocol import Via
from tests.local_server.programs import PROGRAMS
from tests.model_servers import ASKING, MODEL, Traffic, asking_gateway
from tests.model_servers.real_versions import save_version
from tests.model_servers.swaps import LABELS, WAYS, Models
from tests.model_servers.traffic import wait_for_each
from tests.serving_client.gateway.conftest import running

CALLS = [100, pytest.param(2_000, marks=pytest.mark.soak)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("saved")
    return {name: save_version(directory / name, labels) for name, labels in LABELS.items()}


@contextlib.contextmanager
def callers(address: str, directory: Path) -> Iterator[list[Traffic]]:
    """Ask all the time, both ways, with each kind of client."""
    vias: list[Via] = ["images", "encoded"]
    with contextlib.ExitStack() as stack:
        url, _ = stack.enter_context(running(address, directory / "gateway.log", model=MODEL))
        asks = [asking(address, via) for asking in ASKING.values() for via in vias]
        asks += [asking_gateway(url, via) for via in vias]
        yield [stack.enter_context(Traffic(stack.enter_context(ask), callers=1)) for ask in asks]


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("way", WAYS)
def test_no_label_is_wrong_and_no_call_fails_once_the_server_answers(
    way: str, program: str, calls: int, saved: dict[str, Path], tmp_path: Path
) -> None:
    with WAYS[way](program, Models(saved, tmp_path)) as deployment:
        with callers(deployment.address, tmp_path) as traffics:
            wait_for_each(traffics, calls // 10)
            deployment.swap()
            answers_since_s = 0 if deployment.stays_available else time.monotonic()
            wait_for_each(traffics, calls)
        for traffic in traffics:
            failed = traffic.failed_since(answers_since_s)
            assert not traffic.wrong, f"{len(traffic.wrong)} of {len(traffic.answers)}: {traffic.wrong[0]}"
            assert not failed, f"{len(failed)} of {len(traffic.answers)}: {failed[0].error}"
            assert traffic.answers[-1].version == deployment.number
        with Client(deployment.address, model=MODEL) as client:
            described = {client.describe().labels for _ in range(50)}
        assert described == {LABELS[model] for model in deployment.models_after}
