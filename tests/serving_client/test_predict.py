"""`predict`: tensors that the caller prepared, to any model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving_client import AsyncClient, Client, InvalidRequest, preprocess_input
from tests.conftest import serving
from tests.model_servers import CLASSES, MODEL, ForeignVersion, Servers, Version
from tests.model_servers.pictures import colour
from tests.model_servers.real_versions import save_foreign_version

OTHER_ORDER = CLASSES[::-1]
PIXELS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
PLACE = np.array([[0.5, 1.0], [2.0, 3.0]], np.float32)
SUMS = PIXELS.reshape(2, -1).sum(axis=1, dtype=np.float32) + PLACE.sum(axis=1)
TWO_INPUTS = {"pixels": ("uint8", (4, 4, 3)), "place": ("float32", (2,))}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(2) as servers:
        yield servers


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a local server with a SavedModel that the trainer did not write."""
    base_path = tmp_path_factory.mktemp("foreign")
    save_foreign_version(base_path / "7")
    with serving(MODEL, base_path) as (address, _):
        yield address


def prepared(label: str, mode: str, size_px: int = 8) -> npt.NDArray[np.float32]:
    """One row that shows a class."""
    return preprocess_input(np.full((1, size_px, size_px, 3), colour(label)), mode)


def test_the_outputs_come_with_their_own_version_and_card(servers: Servers) -> None:
    servers[0].serve(Version(1, mode="tf"))
    servers[1].serve(Version(2, OTHER_ORDER, mode="tf"))
    versions = set()
    with Client(servers.name, model=MODEL) as client:
        for shown in CLASSES * 10:
            outputs = client.predict(prepared(shown, "tf"))
            assert outputs.card is not None
            assert outputs.card.labels[int(np.argmax(outputs["probabilities"][0]))] == shown
            assert outputs.version == outputs.card.version
            versions.add(outputs.version)
    assert versions == {1, 2}


def test_tensors_reach_the_server_whose_version_they_fit(servers: Servers) -> None:
    servers[0].serve(Version(1, size_px=12))
    servers[1].serve(Version(2, OTHER_ORDER, size_px=8))
    with Client(servers.name, model=MODEL) as client:
        for shown in CLASSES * 5:
            for size_px, version in ((12, 1), (8, 2)):
                assert client.predict(prepared(shown, "tf", size_px)).version == version


@pytest.mark.parametrize("sent", [PLACE, {"place": PLACE}], ids=["array", "mapping"])
def test_a_model_without_a_card_takes_its_only_input_by_any_name(
    servers: Servers, sent: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]
) -> None:
    servers[0].serve(ForeignVersion(3, {"place": ("float32", (2,))}))
    with Client(servers[0].address, model=MODEL) as client:
        outputs = client.predict(sent)
    np.testing.assert_array_equal(outputs["sums"], PLACE.sum(axis=1))
    assert (outputs.version, outputs.card) == (3, None)


def test_a_model_without_a_card_takes_several_inputs_of_other_dtypes(servers: Servers, foreign: str) -> None:
    servers[0].serve(ForeignVersion(7, TWO_INPUTS))
    for address in (servers[0].address, foreign):
        with Client(address, model=MODEL) as client:
            outputs = client.predict({"pixels": PIXELS, "place": PLACE})
        np.testing.assert_array_equal(outputs["sums"], SUMS)
        assert (outputs.version, outputs.card) == (7, None)


def test_asyncio_too(foreign: str) -> None:
    async def predict() -> Any:
        async with AsyncClient(foreign, model=MODEL) as client:
            return await client.predict({"pixels": PIXELS, "place": PLACE})

    np.testing.assert_array_equal(asyncio.run(predict())["sums"], SUMS)


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        pytest.param(PIXELS, "pixels, place", id="one array for two inputs"),
        pytest.param({"pixels": PIXELS}, "place", id="an input is missing"),
        pytest.param({"pixels": PIXELS, "place": PLACE, "more": PLACE}, "more", id="an input too many"),
        pytest.param({"pixels": PIXELS.astype(np.float32), "place": PLACE}, "uint8", id="another dtype"),
        pytest.param({"pixels": PIXELS[:, :3], "place": PLACE}, "4, 4, 3", id="another shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    foreign: str, sent: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]], named: str
) -> None:
    with Client(foreign, model=MODEL) as client, pytest.raises(InvalidRequest, match=named):
        client.predict(sent)


def test_a_model_gets_another_card_or_none_while_a_client_uses_it(servers: Servers) -> None:
    server = servers[0]
    with Client(server.address, model=MODEL) as client:
        for version in (Version(1), ForeignVersion(1, TWO_INPUTS), Version(1, OTHER_ORDER)):
            server.serve(version)
            if isinstance(version, ForeignVersion):
                outputs = client.predict({"pixels": PIXELS, "place": PLACE})
                np.testing.assert_array_equal(outputs["sums"], SUMS)
            else:
                outputs = client.predict(prepared("tree", "tf"))
                assert outputs.card and outputs.card.labels == version.labels
