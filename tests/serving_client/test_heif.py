from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from serving_client import ImageError, InputSpec, preprocessing
from serving_client.formats import heif
from tests.exif_files import encode, stored_turned
from tests.heif_files import HEIF_FORMATS

SPEC = InputSpec(24, 32, "none", exif_orientation=True)
PHOTOGRAPH = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
PHOTOGRAPH.paste((200, 30, 60), (5, 5, 30, 20))


@pytest.mark.parametrize("options", HEIF_FORMATS.values(), ids=HEIF_FORMATS.keys())
@pytest.mark.parametrize("orientation", [1, 6])
def test_pixels_are_decoded_upright_and_sent_as_a_lossless_copy(
    options: dict[str, Any], orientation: int, tmp_path: Path
) -> None:
    path = tmp_path / "picture.heic"
    path.write_bytes(stored_turned(PHOTOGRAPH, orientation=orientation, **options))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    for image in (path, path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(preprocessing.decode(image, exif_orientation=True), shown)
        copy = Image.open(io.BytesIO(preprocessing.encode(image, SPEC)))
        assert copy.format == "PNG" and not copy.getexif()
        np.testing.assert_array_equal(copy, shown)


@pytest.mark.parametrize("options", HEIF_FORMATS.values(), ids=HEIF_FORMATS.keys())
def test_a_truncated_file_is_an_image_error(options: dict[str, Any]) -> None:
    file = encode(PHOTOGRAPH, **options)
    for length in (12, 40, len(file) // 2, len(file) - 5):
        with pytest.raises(ImageError) as caught:
            preprocessing.encode(file[:length], SPEC)
        assert "\n" not in str(caught.value)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in ("pillow_heif", "PIL.AvifImagePlugin"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(PIL, "AvifImagePlugin", raising=False)
    heif._reader.cache_clear()
    yield
    heif._reader.cache_clear()


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        (b"heic\0\0\0\0mif1heic", "HEIC"),
        (b"avif\0\0\0\0avifmif1", "AVIF"),
        (b"mif1\0\0\0\0mif1avif", "AVIF"),
        (b"mif1\0\0\0\0mif1heix", "HEIC"),
    ],
)
@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_message_names_it(brands: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes((8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(100))
    for read in (preprocessing.preprocess, preprocessing.encode):
        with pytest.raises(ImageError, match=rf"picture\.jpg.*{name}.*\[heif\]"):
            read(path, SPEC)


@pytest.mark.parametrize("start", [b"", b"\0\0\0\x18ftypmp42", b"\0\0\0\x18moov", b"\xff\xff\xff\xffftyp"])
def test_other_files_are_of_no_such_format(start: bytes) -> None:
    assert heif.heif_format(start + bytes(40)) is None
