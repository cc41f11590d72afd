"""The client in Python and the graph in TensorFlow read the same orientation from any bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving_client.formats import orientation, webp_frame
from tests.exif_files import (
    FORMATS,
    LONG,
    encode,
    exif_block,
    png_chunk,
    segment,
    stored_turned,
    turned_back,
    webp_chunk,
    webp_file,
)
from trainer.data import chunks as graph_chunks
from trainer.data import orientation as graph_orientation
from trainer.data import webp as graph_webp

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8))
JPEG, PNG, WEBP = (encode(IMAGE, format_name) for format_name in FORMATS)
EXIF = b"Exif\0\0"


def jpeg(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def png(*chunks: bytes, at_end: bool = False) -> bytes:
    place = len(PNG) - 12 if at_end else 33  # before IEND, or behind IHDR
    return PNG[:place] + b"".join(chunks) + PNG[place:]


def webp_with(*chunks: bytes) -> bytes:
    header = webp_chunk(b"VP8X", bytes([0x08, 0, 0, 0, 4, 0, 0, 2, 0, 0]))
    return webp_file(header, WEBP[12:], *chunks)


XMP = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='3'/>"

CASES = {
    "no Exif data": (JPEG, 1),
    "little-endian": (jpeg(segment(0xE1, EXIF + exif_block(6))), 6),
    "big-endian": (jpeg(segment(0xE1, EXIF + exif_block(6, order=">"))), 6),
    "first entry": (jpeg(segment(0xE1, EXIF + exif_block(6, before=0))), 6),
    "directory elsewhere": (jpeg(segment(0xE1, EXIF + exif_block(6, start=100))), 6),
    "behind XMP": (jpeg(segment(0xE1, XMP), segment(0xE1, EXIF + exif_block(6))), 6),
    "behind JFIF, ICC and a comment": (
        jpeg(segment(0xE2, b"ICC"), segment(0xFE, b"text"), segment(0xE1, EXIF + exif_block(6))),
        6,
    ),
    "behind quantization tables": (
        jpeg(segment(0xDB, bytes(65)), segment(0xC4, bytes(20)), segment(0xE1, EXIF + exif_block(6))),
        6,
    ),
    "fill bytes": (jpeg(b"\xff" * 9, segment(0xE1, EXIF + exif_block(6)), b"\xff"), 6),
    "a marker without payload": (jpeg(b"\xff\xd0\xff\x01", segment(0xE1, EXIF + exif_block(6))), 6),
    "two Exif segments": (
        jpeg(segment(0xE1, EXIF + exif_block(6)), segment(0xE1, EXIF + exif_block(3))),
        6,
    ),
    "the first Exif segment is empty": (
        jpeg(segment(0xE1, EXIF), segment(0xE1, EXIF + exif_block(3))),
        1,
    ),
    "the thumbnail's": (jpeg(segment(0xE1, EXIF + exif_block(1, thumbnail=6))), 1),
    "not the thumbnail's": (jpeg(segment(0xE1, EXIF + exif_block(8, thumbnail=6))), 8),
    "0": (jpeg(segment(0xE1, EXIF + exif_block(0))), 1),
    "9": (jpeg(segment(0xE1, EXIF + exif_block(9))), 1),
    "65535": (jpeg(segment(0xE1, EXIF + exif_block(65535))), 1),
    "a LONG": (jpeg(segment(0xE1, EXIF + exif_block(6, kind=LONG))), 1),
    "two values": (jpeg(segment(0xE1, EXIF + exif_block(6, count=2))), 1),
    "no prefix": (jpeg(segment(0xE1, exif_block(6))), 1),
    "cut off in the entry": (jpeg(segment(0xE1, EXIF + exif_block(6)[:-10])), 1),
    "cut off behind the entry": (jpeg(segment(0xE1, EXIF + exif_block(6)[:-4])), 6),
    "directory behind the end": (jpeg(segment(0xE1, EXIF + b"II*\0\xff\xff\xff\xff")), 1),
    "directory offset of 2 GiB": (jpeg(segment(0xE1, EXIF + b"MM\0*\x80\0\0\0")), 1),
    "in a later APP1 of another kind": (jpeg(segment(0xE3, EXIF + exif_block(6))), 1),
    "behind the frame header": (
        jpeg(segment(0xC0, bytes(15)), segment(0xE1, EXIF + exif_block(6))),
        1,
    ),
    "behind the image data": (JPEG + segment(0xE1, EXIF + exif_block(6)), 1),
    "segment shorter than its length": (b"\xff\xd8\xff\xe1\xff\xff" + EXIF + exif_block(6), 6),
    "segment of length 0": (b"\xff\xd8\xff\xe0\0\0" + segment(0xE1, EXIF + exif_block(6)), 1),
    "4,000 segments": (jpeg(*[segment(0xFE, b"")] * 4000, segment(0xE1, EXIF + exif_block(6))), 6),
    "more segments than are walked": (
        jpeg(*[segment(0xFE, b"")] * 5000, segment(0xE1, EXIF + exif_block(6))),
        1,
    ),
    "PNG": (png(png_chunk(b"eXIf", exif_block(6))), 6),
    "PNG, with prefix": (png(png_chunk(b"eXIf", EXIF + exif_block(6, order=">"))), 6),
    "PNG, behind the image data": (png(png_chunk(b"eXIf", exif_block(6)), at_end=True), 6),
    "PNG, behind its end": (PNG + png_chunk(b"eXIf", exif_block(6)), 1),
    "PNG, two chunks": (png(png_chunk(b"eXIf", exif_block(6)), png_chunk(b"eXIf", exif_block(3))), 6),
    "PNG, in a text chunk": (png(png_chunk(b"tEXt", b"eXIf" + exif_block(6))), 1),
    "PNG, chunk of 2 GiB": (png(b"\xff\xff\xff\xfftEXt", png_chunk(b"eXIf", exif_block(6))), 1),
    "PNG, Exif chunk of 2 GiB": (png(b"\xff\xff\xff\xffeXIf" + exif_block(6)), 6),
    "PNG, of 3,000 chunks": (png(*[png_chunk(b"tEXt", b"a")] * 3000, png_chunk(b"eXIf", exif_block(6))), 6),
    "WebP": (webp_with(webp_chunk(b"EXIF", exif_block(6))), 6),
    "WebP, with prefix": (webp_with(webp_chunk(b"EXIF", EXIF + exif_block(6, order=">"))), 6),
    "WebP, behind a chunk of odd length": (
        webp_with(webp_chunk(b"XMP ", b"odd"), webp_chunk(b"EXIF", exif_block(6))),
        6,
    ),
    "WebP, two chunks": (
        webp_with(webp_chunk(b"EXIF", exif_block(6)), webp_chunk(b"EXIF", exif_block(3))),
        6,
    ),
    "WebP, behind its end": (webp_with() + webp_chunk(b"EXIF", exif_block(6)), 1),
    "nothing": (b"", 1),
    "a GIF": (encode(IMAGE, "GIF"), 1),
}


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])  # type: ignore[untyped-decorator]  # TensorFlow has no types
def in_the_graph(files: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(graph_orientation.read_orientation, files, fn_output_signature=tf.int64)


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])  # type: ignore[untyped-decorator]  # TensorFlow has no types
def first_frames_in_the_graph(files: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(graph_webp.first_frame, files)


@pytest.mark.parametrize(("file", "expected"), CASES.values(), ids=CASES.keys())
def test_both_sides_read_the_same_orientation(file: bytes, expected: int) -> None:
    assert orientation.read_orientation(file) == expected
    assert in_the_graph(tf.constant([file])).numpy().tolist() == [expected]


@pytest.mark.parametrize("format_name", FORMATS)
def test_reads_what_pillow_writes(format_name: str) -> None:
    files = [stored_turned(IMAGE, format_name, value) for value in range(1, 9)]
    assert [orientation.read_orientation(file) for file in files] == list(range(1, 9))
    assert in_the_graph(tf.constant(files)).numpy().tolist() == list(range(1, 9))


@pytest.mark.parametrize("value", range(1, 9))
def test_both_sides_turn_an_image_upright(value: int) -> None:
    stored = turned_back(IMAGE, value)
    np.testing.assert_array_equal(orientation.turn_upright(stored, value), IMAGE)
    turned = graph_orientation.turn_upright(tf.constant(np.asarray(stored)), tf.constant(value, tf.int64))
    np.testing.assert_array_equal(turned, IMAGE)


def test_both_sides_walk_equally_far() -> None:
    assert webp_frame.MAX_STEPS == graph_chunks.MAX_STEPS
    for steps, found in ((webp_frame.MAX_STEPS - 1, True), (webp_frame.MAX_STEPS, False)):
        # Its own header segment comes behind these.
        file = JPEG[:2] + segment(0xFE, b"") * steps + segment(0xE1, EXIF + exif_block(6))
        assert orientation.read_orientation(file) == (6 if found else 1)
        assert in_the_graph(tf.constant([file])).numpy().tolist() == [6 if found else 1]


def mutated(file: bytes, rng: random.Random) -> bytes:
    """Change, remove, insert or cut bytes, most often where the parsers look."""
    data = bytearray(file)
    for _ in range(rng.choice((1, 1, 2, 4))):
        tags = [place for place in (data.find(b"II*\0"), data.find(b"MM\0*")) if place >= 0]
        place = rng.randrange(min(len(data), 200)) if data else 0
        if tags and rng.random() < 0.5:
            place = min(tags[0] + rng.randrange(44), len(data) - 1)
        what = rng.random()
        if what < 0.6 and data:
            data[place] = rng.choice((0, 1, 3, 6, 8, 9, 0x7F, 0xE1, 0xFF, rng.randrange(256)))
        elif what < 0.75:
            data[place:place] = rng.randbytes(rng.randrange(5))
        elif what < 0.9:
            del data[place : place + rng.randrange(5)]
        else:
            del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def mutated_files(seeds: Sequence[bytes], count: int) -> list[bytes]:
    rng = random.Random(0)
    beginnings = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"RIFF\xff\xff\0\0WEBP")
    noise = [rng.choice(beginnings) + rng.randbytes(rng.randrange(80)) for _ in range(count // 8)]
    return noise + [mutated(rng.choice(seeds), rng) for _ in range(count - len(noise))]


def test_both_sides_agree_on_mutated_files() -> None:
    seeds = [file for file, _ in CASES.values() if len(file) < 2000]
    seeds += [stored_turned(IMAGE, name, value) for name in FORMATS for value in range(1, 9)]
    files = mutated_files(seeds, 20_000)
    expected = [orientation.read_orientation(file) for file in files]
    assert set(expected) == set(range(1, 9)), "the mutations must leave orientations readable"
    assert in_the_graph(tf.constant(files)).numpy().tolist() == expected


def animated(**options: object) -> bytes:
    return encode(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(180)], duration=100, **options)


def test_both_sides_find_the_same_first_frame_in_mutated_files() -> None:
    transparent = IMAGE.convert("RGBA")
    transparent.putalpha(100)
    seeds = [
        WEBP,
        webp_with(webp_chunk(b"EXIF", exif_block(6))),
        encode(transparent, "WEBP"),
        encode(transparent, "WEBP", lossless=False),
        animated(),
        animated(lossless=False),
    ]
    files = [file for file in mutated_files(seeds, 8_000) if webp_frame.is_webp(file)]
    expected = [webp_frame.first_frame(file) for file in files]
    assert sum(first != file for first, file in zip(expected, files, strict=True)) > 500
    assert first_frames_in_the_graph(tf.constant(files)).numpy().tolist() == expected
