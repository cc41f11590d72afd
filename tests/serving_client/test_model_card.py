import json

import pytest

from serving_client import ServerError
from serving_client.model_card import parse_model_card
from tests.serving_client.fake_model_server import card


def test_parses_labels_and_input() -> None:
    parsed = parse_model_card(json.dumps(card(96)).encode())
    assert (parsed.name, parsed.version, parsed.labels) == ("m", 1, ("a", "b"))
    assert (parsed.input.shape, parsed.input.mode, parsed.input.resize_filter) == (
        (96, 96, 3),
        "tf",
        "bilinear",
    )
    assert parsed.raw == card(96)


def test_a_version_turns_images_only_if_its_card_says_so() -> None:
    raw = card(96)
    for entry, turns in (
        ({}, False),
        ({"exif_orientation": False}, False),
        ({"exif_orientation": True}, True),
    ):
        raw["input"] = {**card(96)["input"], **entry}
        assert parse_model_card(json.dumps(raw).encode()).input.exif_orientation is turns


@pytest.mark.parametrize("text", [b"{}", b"[]", b"no JSON", b"\xff"])
def test_refuses_what_is_not_a_card(text: bytes) -> None:
    with pytest.raises(ServerError):
        parse_model_card(text)


def test_refuses_an_unknown_schema_version() -> None:
    with pytest.raises(ServerError, match=r"schema_version 1\b.* Received: 2"):
        parse_model_card(json.dumps({**card(96), "schema_version": 2}).encode())


@pytest.mark.parametrize(
    "change",
    [{"preprocessing": "x"}, {"resize_filter": "x"}, {"channels": "x"}, {"exif_orientation": "x"}],
    ids=str,
)
def test_refuses_an_input_that_the_client_cannot_produce(change: dict[str, str]) -> None:
    raw = card(96)
    raw["input"].update(change)
    with pytest.raises(ServerError, match="'x'"):
        parse_model_card(json.dumps(raw).encode())
