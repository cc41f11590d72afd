import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from serving_client import ImageError
from serving_client.formats.decoding import decode
from serving_client.formats.inspection import why_invalid
from tests.pictures import cmyk, encode, photograph, pictures, png

ROWS = (b"\0" + bytes(range(12))) * 3


def small_png(*, pixels: bytes | None = None, compressed: bytes | None = None) -> bytes:
    return png((4, 3), pixels=pixels, compressed=compressed)


def gif(codes: str, size: int = 2) -> bytes:
    """Return a GIF of two colours, size × 1, from LZW codes of three bits each, the first one last."""
    packed = int(codes.replace(" ", ""), 2)
    data = packed.to_bytes((packed.bit_length() + 7) // 8, "little")
    image = b"\x2c\0\0\0\0" + bytes([size, 0, 1, 0, 0]) + b"\2" + bytes([len(data)]) + data + b"\0"
    return b"GIF89a" + bytes([size, 0, 1, 0, 0x80, 0, 0]) + b"\0\0\0\xff\xff\xff" + image + b"\x3b"


def test_codes_of_a_gif_give_its_pixels() -> None:
    """The codes are: clear, 1, 0, end."""
    assert np.asarray(decode(gif("101 000 001 100")))[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(small_png(pixels=ROWS[:-1]), "38 bytes instead of 39", id="PNG, too little"),
        pytest.param(small_png(pixels=ROWS * 2), "instead of 39", id="PNG, too much"),
        pytest.param(small_png(compressed=zlib.compress(ROWS)[:-4]), "instead of 39", id="PNG, not ended"),
        pytest.param(small_png(compressed=zlib.compress(ROWS)[:-1] + b"x"), "data check", id="PNG, checksum"),
        pytest.param(small_png(compressed=b"garbage"), "header check", id="PNG, garbage"),
        pytest.param(small_png(pixels=b"\5" + ROWS[1:]), "cannot be decoded", id="PNG, unknown filter"),
        pytest.param(gif("101 001 100"), "cannot be decoded", id="GIF that ends early"),
        pytest.param(gif("101 000 011 100"), "a colour that its palette does not", id="GIF, unknown colour"),
        pytest.param(gif("111 111 001 100"), "cannot be decoded", id="GIF, unknown code"),
    ],
)
def test_damaged_image_data_behind_a_valid_header_is_refused(data: bytes, reason: str) -> None:
    assert why_invalid(data) is None
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_an_application_that_tolerates_truncated_files_changes_no_jpeg_or_png(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for data in (encode("JPEG", photograph())[:-2], small_png(pixels=ROWS[:-1])):
        with pytest.raises(ImageError):
            decode(data)


@pytest.mark.parametrize("adobe", [True, False])
def test_black_ink_darkens_and_an_adobe_marker_inverts(adobe: bool) -> None:
    levels = np.asarray(decode(cmyk(adobe=adobe)), np.int32)
    red, black = np.asarray(photograph().split()[0], np.int32), np.asarray(photograph(3).split()[0], np.int32)
    expected = (255 - red) * (255 - black) // 255 if adobe else red * black // 255
    assert np.abs(levels[..., 0] - expected).mean() < 12


@pytest.mark.parametrize("name", [name for name in pictures() if name.startswith("BMP")])
def test_a_bmp_has_pillows_levels(name: str) -> None:
    """Pillow is not used for it, but reads these files alike."""
    with Image.open(io.BytesIO(pictures()[name])) as image:
        np.testing.assert_array_equal(np.asarray(decode(pictures()[name])), np.asarray(image.convert("RGB")))
