"""Each answer is read with the card that it names; versions that 0.1.0 exported name none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from serving_client import Client, ServingError
from serving_client.protocol import Via
from tests.model_servers import (
    ASKING,
    CLASSES,
    MODEL,
    FakeServer,
    Servers,
    Traffic,
    Version,
    picture,
)

OTHER_ORDER = CLASSES[::-1]
OLD = Version(1, identity=False)
OLD_OTHER_ORDER = Version(1, OTHER_ORDER, identity=False)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(2) as servers:
        yield servers


@pytest.fixture
def server(servers: Servers) -> FakeServer:
    """A server with an address of its own."""
    return servers[0]


KINDS = pytest.mark.parametrize("ask_with", ASKING.values(), ids=ASKING)
VIAS = pytest.mark.parametrize("via", ["images", "encoded"])


@KINDS
@VIAS
def test_without_identity_no_label_is_wrong_after_a_restart(
    server: FakeServer, ask_with: Any, via: Via
) -> None:
    server.serve(OLD)
    with ask_with(server.address, via) as ask, Traffic(ask) as traffic:
        traffic.wait_for(50)
        server.kill()
        server.serve(OLD_OTHER_ORDER)
        server.start()
        restarted_s = time.monotonic()
        traffic.wait_for(100)
    assert not traffic.wrong, f"{len(traffic.wrong)} of {len(traffic.answers)}"
    assert not traffic.failed_since(restarted_s)


@KINDS
@VIAS
def test_without_identity_no_label_is_wrong_when_the_version_is_replaced_in_place(
    server: FakeServer, ask_with: Any, via: Via
) -> None:
    server.serve(OLD)
    with ask_with(server.address, via) as ask, Traffic(ask) as traffic:
        for version in (OLD_OTHER_ORDER, OLD):
            traffic.wait_for(50)
            server.serve()  # it is unloaded first
            server.serve(version)
            replaced_s = time.monotonic()
            traffic.wait_for(50)
            assert not traffic.failed_since(replaced_s)
    assert not traffic.wrong, f"{len(traffic.wrong)} of {len(traffic.answers)}"


def test_describe_works_without_identity(server: FakeServer) -> None:
    server.serve(OLD_OTHER_ORDER)
    with Client(server.address, model=MODEL) as client:
        assert client.describe().labels == OTHER_ORDER


@VIAS
def test_an_answer_whose_card_no_server_has_fails_within_the_deadline(server: FakeServer, via: Via) -> None:
    server.serve(Version(1, claimed_id="0123456789abcdef"))
    with (
        Client(server.address, model=MODEL, timeout_s=1) as client,
        pytest.raises(ServingError, match="0123456789abcdef"),
    ):
        client.classify([picture("fish")], via=via)


@KINDS
@VIAS
def test_a_server_whose_answers_cannot_be_read_makes_no_label_wrong(
    servers: Servers, ask_with: Any, via: Via
) -> None:
    servers[0].serve(Version(1))
    servers[1].serve(Version(1, OTHER_ORDER, claimed_id="0123456789abcdef"))
    with ask_with(servers.name, via, timeout_s=1) as ask, Traffic(ask) as traffic:
        traffic.wait_until(lambda: sum(answer.label is not None for answer in traffic.answers) >= 20)
    assert not traffic.wrong, f"{len(traffic.wrong)} of {len(traffic.answers)}"
    assert all(isinstance(answer.error, ServingError) for answer in traffic.failed)
