import io
import random
import struct
import time
import warnings
import zlib

import pytest
from PIL import Image

from serving_client import ImageError
from serving_client.formats.contents import MAX_PIXELS, MAX_SIDE_PX
from serving_client.formats.decoding import decode
from serving_client.formats.inspection import FORMATS, format_of, inspect, why_invalid
from tests.pictures import bmp, encode, numbered_picture, photograph, pictures, png, png_chunk

JPEG, PNG, GIF, WEBP = (pictures()[name] for name in ("JPEG", "PNG", "GIF", "WebP"))


def with_chunks(*chunks: bytes) -> bytes:
    return png(chunks=chunks)


@pytest.mark.parametrize("name", pictures())
def test_the_header_gives_format_and_size_of_every_kind(name: str) -> None:
    contents = inspect(pictures()[name])
    with Image.open(io.BytesIO(pictures()[name])) as image:
        assert (contents.width_px, contents.height_px) == image.size
    assert contents.format == name.split()[0]
    assert contents.format in FORMATS


@pytest.mark.parametrize("name", pictures())
def test_a_file_that_is_cut_off_anywhere_is_refused(name: str) -> None:
    whole = pictures()[name]
    if name == "JPEG of several pictures":  # the first one is whole before the second begins
        whole = whole[: whole.index(b"\xff\xd9") + 2]
    for length in random.Random(0).sample(range(len(whole)), 60):
        assert why_invalid(whole[:length]), length


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(encode("TIFF", photograph()), "TIFF", id="TIFF"),
        pytest.param(encode("JPEG2000", photograph()), "JPEG 2000", id="JPEG 2000"),
        pytest.param(encode("AVIF", photograph()), "AVIF", id="AVIF"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC", id="HEIC"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF", id="AVIF by its second brand"),
        pytest.param(b"\xff\x0a\xfa\x7f", "JPEG XL", id="JPEG XL"),
        pytest.param(encode("ICO", photograph()), "icon", id="icon"),
        pytest.param(b"\n<!DOCTYPE html><html>", "HTML", id="a web page"),
        pytest.param(b'<?xml version="1.0"?><svg xmlns="">', "SVG", id="SVG"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", id="Git LFS"),
        pytest.param(b"\0\0\0\x18ftypisom\0\0\0\0isommp41", None, id="a film"),
        pytest.param(b"some text", None, id="text"),
        pytest.param(b"RIFF\x04\0\0\0WAVE", None, id="sound"),
    ],
)
def test_other_formats_are_refused_by_name(data: bytes, name: str | None) -> None:
    assert format_of(data) == name
    with pytest.raises(ImageError) as caught:
        inspect(data)
    expected = f"a file of the format {name}" if name else f"{len(data)} bytes of an unknown format"
    assert str(caught.value) == expected


def jpeg_with(marker: int, body: bytes) -> bytes:
    """Return a JPEG with one more segment behind its first marker."""
    return JPEG[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + JPEG[2:]


def jpeg_frame(**changes: int) -> bytes:
    """Return a JPEG whose frame header has other values: marker, bits, height, width, components."""
    start = JPEG.index(b"\xff\xc0")
    marker, length, bits, height, width, components = struct.unpack_from(">xBHBHHB", JPEG, start)
    fields = {"marker": marker, "length": length, "bits": bits, "height": height, "width": width}
    values = {**fields, "components": components, **changes}
    return JPEG[:start] + struct.pack(">BBHBHHB", 0xFF, *values.values()) + JPEG[start + 10 :]


def png_header(width: int, height: int, depth: int = 8, colour_type: int = 2) -> bytes:
    return png((width, height), depth, colour_type, pixels=b"\0" * 100)


def without_scan(data: bytes, number: int) -> bytes:
    starts = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    ends = [*starts[1:], data.rindex(b"\xff\xd9")]
    return data[: starts[number]] + data[ends[number] :]


GIF16 = pictures()["GIF of 16 colours"]
CODE_SIZE = GIF16.index(b"\x2c\0\0\0\0") + 10
PROGRESSIVE = pictures()["JPEG grey progressive"]
RESTARTS = pictures()["JPEG with restart markers"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(jpeg_frame(marker=0xC3), "a lossless JPEG", id="JPEG, lossless"),
        pytest.param(jpeg_frame(marker=0xC9), "arithmetic coding", id="JPEG, arithmetic"),
        pytest.param(jpeg_frame(marker=0xC5), "hierarchical", id="JPEG, hierarchical"),
        pytest.param(jpeg_frame(bits=12), "12 bits", id="JPEG, 12 bits"),
        pytest.param(jpeg_frame(height=0), "60 × 0 pixels", id="JPEG whose height comes later (DNL)"),
        pytest.param(jpeg_frame(width=0), "0 × 44 pixels", id="JPEG, no width"),
        pytest.param(jpeg_frame(components=2), "wrong length", id="JPEG, components"),
        pytest.param(
            jpeg_with(0xC0, JPEG[JPEG.index(b"\xff\xc0") + 4 :][:15]), "two frame", id="JPEG, two frames"
        ),
        pytest.param(JPEG[:-2], "a truncated JPEG", id="JPEG without its end"),
        pytest.param(JPEG[:2] + b"\0" + JPEG[2:], "unknown format", id="JPEG, bytes after its start"),
        pytest.param(RESTARTS.replace(b"\xff\xd1", b"", 1), "restart markers", id="JPEG, a lost marker"),
        pytest.param(RESTARTS.replace(b"\xff\xd1", b"\xff\xd3", 1), "restart markers", id="JPEG, order"),
        pytest.param(without_scan(PROGRESSIVE, 0), "scans", id="JPEG, first scan lost"),
        pytest.param(without_scan(PROGRESSIVE, -1), "missing scans", id="JPEG, last scan lost"),
        pytest.param(
            with_chunks(b"\0\0\0\1teXtab\0\0\0"), "checksum of its chunk 'teXt'", id="PNG, checksum"
        ),
        pytest.param(with_chunks(png_chunk(b"te1t", b"")), "without a name", id="PNG, name"),
        pytest.param(with_chunks(png_chunk(b"TEXt", b"")), "chunk 'TEXt'", id="PNG, unknown chunk"),
        pytest.param(PNG[:-12], "a truncated PNG", id="PNG without its end"),
        pytest.param(png(depth=8, colour_type=5 - 1)[:25] + b"\5" + PNG[26:], "checksum", id="PNG, header"),
        pytest.param(png_header(10_000, 10_000), "up to 89,478,485", id="PNG of 100 megapixels"),
        pytest.param(png_header(MAX_SIDE_PX + 1, 1), "up to 65,500", id="PNG, long side"),
        pytest.param(png_header(0, 5), "0 × 5 pixels", id="PNG without a width"),
        pytest.param(bmp(40, 24)[:-1], "a truncated BMP", id="BMP, truncated"),
        pytest.param(bmp(40, 24) + b"\0", "bytes instead of", id="BMP, trailing byte"),
        pytest.param(encode("BMP", photograph().quantize(8)), "palette", id="BMP with a palette"),
        pytest.param(encode("BMP", photograph().convert("1")), "1 bits", id="BMP, 1 bit"),
        pytest.param(bmp(40, 24)[:28] + b"\x10\0" + bmp(40, 24)[30:], "16 bits", id="BMP, 16 bits"),
        pytest.param(bmp(40, 24)[:30] + b"\1" + bmp(40, 24)[31:], "compressed", id="BMP, compressed"),
        pytest.param(bmp(40, 24)[:14] + b"\x0c" + bmp(40, 24)[15:], "header of 12", id="BMP, OS/2 1.0"),
        pytest.param(bmp(40, 24)[:18] + b"\xff" * 4 + bmp(40, 24)[22:], "width", id="BMP, negative width"),
        pytest.param(
            bmp(40, 24)[:18] + struct.pack("<2i", 60_000, 60_000) + bmp(40, 24)[26:],
            "60,000 × 60,000 pixels",
            id="BMP, huge header",
        ),
        pytest.param(
            bmp(40, 32, masks=True).replace(struct.pack("<I", 0xFF0000), b"\xff\0\0\0", 1),
            "order of its levels",
            id="BMP, RGBA",
        ),
        pytest.param(GIF.replace(b"<\0,\0", b"\xff" * 4), "65,535 × 65,535", id="GIF, huge header"),
        pytest.param(GIF[:6] + b"\xff\0" + GIF[8:], "fill its canvas", id="GIF, small first frame"),
        pytest.param(GIF[:10] + b"\0" + GIF[11:], "damaged GIF", id="GIF without a palette"),
        pytest.param(GIF[:3] + b"88a" + GIF[6:], "version", id="GIF, version"),
        pytest.param(GIF16[:CODE_SIZE] + b"\x0c" + GIF16[CODE_SIZE + 1 :], "code size", id="GIF, code size"),
        pytest.param(GIF[:-1], "a truncated GIF", id="GIF without its end"),
        pytest.param(GIF[: 13 + 768] + b";", "no frame", id="GIF without a frame"),
        pytest.param(WEBP[:12] + b"ABCD" + WEBP[16:], "no picture", id="WebP without a picture"),
        pytest.param(WEBP[:4] + b"\xff\xff\0\0" + WEBP[8:], "a truncated WebP", id="WebP, length"),
        pytest.param(WEBP[:23] + b"abc" + WEBP[26:], "without its header", id="WebP, damaged header"),
        pytest.param(WEBP[:26] + b"\0\0" + WEBP[28:], "0 × 44 pixels", id="WebP without a width"),
    ],
)
def test_invalid_headers_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    given = why_invalid(data)
    assert given is not None and reason in given and "\n" not in given
    with pytest.raises(ImageError, match="^" + given[:5]):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_chunks(png_chunk(b"tEXt", b"a\0" + b"b" * 9_000_000)), id="9 MB of text"),
        pytest.param(
            with_chunks(png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(50_000_000)))),
            id="text that inflates to 50 MB",
        ),
        pytest.param(with_chunks(*[png_chunk(b"tEXt", b"a\0b")] * 5000), id="5,000 chunks of text"),
        pytest.param(with_chunks(png_chunk(b"iCCP", b"a\0\0garbage")), id="a damaged colour profile"),
        pytest.param(with_chunks(png_chunk(b"eXIf", b"garbage")), id="damaged Exif data"),
        pytest.param(with_chunks(png_chunk(b"gAMA", b"\0\0\x4e\x20")), id="a gamma, which is ignored"),
        pytest.param(png() + b"trailing bytes", id="trailing bytes"),
        pytest.param(jpeg_with(0xE1, b"Exif\0\0garbage"), id="damaged Exif data in a JPEG"),
        pytest.param(jpeg_with(0xE2, b"ICC_PROFILE\0"), id="a short colour profile in a JPEG"),
        pytest.param(jpeg_with(0xE2, b"MPF\0garbage"), id="a damaged index of pictures in a JPEG"),
        pytest.param(jpeg_with(0xEE, b"Adobe"), id="a short Adobe segment"),
        pytest.param(jpeg_with(0xED, b"Photoshop 3.0\x008BIM\4\4\0"), id="a damaged Photoshop segment"),
        pytest.param(JPEG + b"trailing bytes", id="trailing bytes in a JPEG"),
    ],
)
def test_metadata_never_makes_a_picture_invalid(data: bytes) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        decode(data)
    assert not warned


def test_the_largest_picture_is_decoded_without_a_warning() -> None:
    """Pillow warns of decompression bombs above the limit; here a grey PNG of one bit, 11 MB unpacked."""
    width, height = MAX_PIXELS // 9400, 9400
    data = png((width, height), 1, 0, pixels=bytes((1 + -(-width // 8)) * height))
    assert inspect(data).width_px * inspect(data).height_px > 0.99 * MAX_PIXELS
    decode(data)


def jpeg_of_exif_segments(count: int) -> bytes:
    return JPEG[:2] + struct.pack(">BBH6s", 0xFF, 0xE1, 1008, b"Exif\0\0").ljust(1010) * count + JPEG[2:]


def png_of_chunks(count: int) -> bytes:
    return with_chunks(png_chunk(b"tEXt", b"a\0b") * count)


def gif_of_comments(count: int) -> bytes:
    whole = numbered_picture("")
    return whole[:19] + b"\x21\xfe\1a\0" * count + whole[19:]


def jpeg_of_fill_bytes(count: int) -> bytes:
    return JPEG[:2] + b"\xff" * (100 * count) + JPEG[2:]


def jpeg_of_ones(count: int) -> bytes:
    """Return a JPEG with coded data of 0xFF throughout."""
    end = JPEG.rindex(b"\xff\xd9")
    return JPEG[:end] + b"\xff" * (100 * count)


@pytest.mark.parametrize(
    "hostile", [jpeg_of_exif_segments, png_of_chunks, gif_of_comments, jpeg_of_fill_bytes, jpeg_of_ones]
)
def test_the_time_grows_with_the_length_alone(hostile: object) -> None:
    """16 times the length takes 16 times as long, and not 256 times."""
    assert callable(hostile)

    def seconds(data: bytes) -> float:
        started = time.process_time()
        for _ in range(3):
            why_invalid(data)
        return time.process_time() - started

    short, long = hostile(1_000), hostile(16_000)
    assert seconds(long) < 80 * max(seconds(short), 1e-3)
