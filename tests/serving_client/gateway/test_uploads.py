"""The gateway answers any upload with a documented status and keeps running."""

import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.local_server.test_fuzz import BOMBS, MANY, picture
from tests.serving_client.gateway.conftest import png


def test_too_many_images_are_refused(http: httpx.Client) -> None:
    small = png(8, 8)
    assert http.post("/v1/classify", files=[("i", small)] * 4).status_code == 200
    for count in (5, 50):
        answer = http.post("/v1/classify", files=[("i", small)] * count)
        assert answer.status_code == 400
        assert re.search(r"\b4\b", answer.json()["detail"])


def test_an_image_over_the_pixel_limit_is_refused(http: httpx.Client) -> None:
    assert http.post("/v1/classify", content=png(1000, 1000)).status_code == 200
    answer = http.post("/v1/classify", content=png(1000, 1001))
    assert answer.status_code == 400
    for fact in ("1 megapixels", "1000 × 1001"):
        assert fact in answer.json()["detail"]


@pytest.mark.parametrize("bomb", BOMBS)
def test_survives_decompression_bombs_and_50_mb_images(http: httpx.Client, bomb: str) -> None:
    answer = http.post("/v1/classify", content=BOMBS[bomb])
    assert answer.status_code in (200, 400, 413)
    assert answer.json()
    assert http.get("/readyz").status_code == 200


@MANY
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "GIF"]),
    cut=st.floats(0.05, 1),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=20),
)
def test_answers_damaged_pictures(
    http: httpx.Client, kind: str, cut: float, damage: list[tuple[float, int]]
) -> None:
    data = bytearray(picture(kind))
    for where, level in damage:
        data[int(where * len(data))] = level
    answer = http.post("/v1/classify", content=bytes(data[: max(1, int(cut * len(data)))]))
    assert answer.status_code in (200, 400)
    assert "Traceback" not in answer.text
