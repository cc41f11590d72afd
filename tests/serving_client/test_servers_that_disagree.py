"""Servers behind one name whose versions, labels and inputs differ, as during every rollout."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from serving_client.protocol import Via
from tests.model_servers import (
    ASKING,
    CLASSES,
    UNSEEN,
    Servers,
    Traffic,
    Version,
    asking_threads,
    spreading_calls,
)

CALLS = [150, pytest.param(5_000, marks=pytest.mark.soak)]
FEWER_CALLS = [150, pytest.param(1_000, marks=pytest.mark.soak)]
OTHER_ORDER = CLASSES[::-1]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two servers differ, and the versions that may answer a client with these options.

    Attributes:
      one_can_answer: the second server cannot answer such a client.
    """

    first: list[Version]
    second: list[Version]
    versions: set[int]
    labels: tuple[dict[str, int], dict[str, int]] = ({}, {})
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    one_can_answer: bool = False


DIFFERENCES = {
    "another size and a version more": Difference(
        [Version(1, size_px=12)], [Version(1), Version(3, OTHER_ORDER)], {1, 3}
    ),
    "a label that was moved on one only": Difference(
        [Version(1, size_px=12), Version(2, OTHER_ORDER)],
        [Version(1, size_px=12), Version(2, OTHER_ORDER)],
        {1, 2},
        ({"stable": 1}, {"stable": 2}),
        {"label": "stable"},
    ),
    "a new label that one does not have yet": Difference(
        [Version(1), Version(2, OTHER_ORDER)],
        [Version(1), Version(2, OTHER_ORDER)],
        {2},
        ({"canary": 2}, {}),
        {"label": "canary"},
        one_can_answer=True,
    ),
    "a label whose version one has not loaded yet": Difference(
        [Version(1), Version(2, OTHER_ORDER)],
        [Version(1)],
        {2},
        ({"stable": 2}, {"stable": 2}),
        {"label": "stable"},
        one_can_answer=True,
    ),
    "one is a version behind": Difference(
        [Version(1), Version(2, OTHER_ORDER, size_px=12)], [Version(1)], {1, 2}
    ),
    "one lacks the pinned version": Difference(
        [Version(1), Version(2, OTHER_ORDER)],
        [Version(1)],
        {2},
        options={"version": 2},
        one_can_answer=True,
    ),
    "another preprocessing under the same size": Difference(
        [Version(1, mode="tf")], [Version(1, mode="caffe")], {1}
    ),
    "other labels under the same number": Difference([Version(1)], [Version(1, OTHER_ORDER)], {1}),
    "another class under the same number": Difference(
        [Version(1)], [Version(1, (UNSEEN, *OTHER_ORDER))], {1}
    ),
    "one was exported by 0.1.0": Difference(
        [Version(1, identity=False)], [Version(2, OTHER_ORDER, size_px=12)], {1, 2}
    ),
    "both were exported by 0.1.0 under the same number": Difference(
        [Version(1, identity=False)], [Version(1, OTHER_ORDER, identity=False)], {1}
    ),
}
# What every rollout brings; they get the most calls.
COMMON = ("another size and a version more", "a label that was moved on one only")
# Nothing tells the answers of two versions apart that have one number and no identity, except the server.
BEHIND_A_PROXY = {
    name: difference
    for name, difference in DIFFERENCES.items()
    if name != "both were exported by 0.1.0 under the same number"
}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(2) as servers:
        yield servers


@pytest.fixture(scope="module")
def proxy(servers: Servers) -> Iterator[str]:
    with spreading_calls([server.address for server in servers]) as address:
        yield address


def set_up(servers: Servers, difference: Difference) -> None:
    for server, versions, labels in zip(
        servers, (difference.first, difference.second), difference.labels, strict=True
    ):
        server.serve(*versions, labels=labels)


def check(traffic: Traffic, versions: set[int]) -> None:
    assert not traffic.failed, f"{len(traffic.failed)} of {len(traffic.answers)}: {traffic.failed[0].error}"
    assert not traffic.wrong, f"{len(traffic.wrong)} of {len(traffic.answers)}: {traffic.wrong[0]}"
    assert {answer.version for answer in traffic.answers} == versions


@pytest.mark.parametrize(
    ("difference", "calls"),
    [
        pytest.param(difference, calls, id=name, marks=marks)
        for name, difference in DIFFERENCES.items()
        for calls, marks in ((150, ()), (5_000 if name in COMMON else 1_000, pytest.mark.soak))
    ],
)
@pytest.mark.parametrize("via", ["images", "encoded"])
@pytest.mark.parametrize("kind", ASKING)
def test_no_call_fails_and_every_label_is_right(
    servers: Servers, difference: Difference, kind: str, via: Via, calls: int
) -> None:
    set_up(servers, difference)
    before = [server.calls() for server in servers]
    with ASKING[kind](servers.name, via, **difference.options) as ask, Traffic(ask) as traffic:
        traffic.wait_for(calls)
    check(traffic, difference.versions)
    if not difference.one_can_answer:
        shares = [server.calls() - count for server, count in zip(servers, before, strict=True)]
        assert min(shares) > calls // 4, shares  # the client asked both


@pytest.mark.parametrize("calls", FEWER_CALLS)
@pytest.mark.parametrize("via", ["images", "encoded"])
@pytest.mark.parametrize("difference", BEHIND_A_PROXY.values(), ids=BEHIND_A_PROXY)
def test_nor_behind_a_proxy_that_hides_the_servers(
    servers: Servers, proxy: str, difference: Difference, via: Via, calls: int
) -> None:
    set_up(servers, difference)
    with asking_threads(proxy, via, **difference.options) as ask, Traffic(ask) as traffic:
        traffic.wait_for(calls)
    check(traffic, difference.versions)


@pytest.mark.parametrize("difference", BEHIND_A_PROXY.values(), ids=BEHIND_A_PROXY)
def test_nor_for_a_lone_caller_behind_a_proxy_that_takes_turns(
    servers: Servers, proxy: str, difference: Difference
) -> None:
    """Without other calls in between, every second call of a conversation reaches the same server."""
    set_up(servers, difference)
    with asking_threads(proxy, "images", **difference.options) as ask, Traffic(ask, callers=1) as traffic:
        traffic.wait_for(50)
    check(traffic, difference.versions & {answer.version for answer in traffic.answers})


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("via", ["images", "encoded"])
@pytest.mark.parametrize("kind", ASKING)
@pytest.mark.parametrize("route", ["name", "proxy"])
def test_a_rollout_of_another_image_size_fails_no_call(
    servers: Servers, proxy: str, route: str, kind: str, via: Via, calls: int
) -> None:
    """The pods load the new version one after the other, and each unloads the old one then."""
    old, new = Version(1, size_px=12), Version(2, OTHER_ORDER)
    for server in servers:
        server.serve(old)
    address = servers.name if route == "name" else proxy
    with ASKING[kind](address, via) as ask, Traffic(ask) as traffic:
        for server in servers:
            traffic.wait_for(calls // 5)
            server.serve(old, new)
            traffic.wait_for(calls // 5)
            server.serve(new)
        traffic.wait_for(calls // 5)
    check(traffic, {1, 2})
    assert {answer.version for answer in traffic.answers[-calls // 6 :]} == {2}
