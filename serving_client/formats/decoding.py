"""Decode an image file to RGB levels, exactly as TensorFlow decodes it.

Pillow decodes all formats but BMP. It sees only the bytes that decide the pixels, so that nothing in the
metadata can make it fail or take long.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from serving_client.errors import ImageError
from serving_client.formats import bmp, inspection, png
from serving_client.formats.contents import Contents, damaged
from serving_client.formats.webp_frame import first_frame


def decode(data: bytes) -> Image.Image:
    """Decode an image file.

    Alpha is dropped, except that transparent pixels of a GIF are black. Of 16-bit levels the high byte is
    taken, and of an animation the first frame. The EXIF orientation is ignored.

    Returns:
      mode RGB.
    Raises:
      ImageError: the file is not a valid picture. The message is what came instead: "a truncated PNG".
    """
    contents = inspection.inspect(data)
    if contents.format == "BMP":
        return _decode_bmp(data, contents)
    if contents.format == "PNG":
        png.check_image_data(data, contents)
    try:
        return _decode_with_pillow(data, contents)
    except ImageError:
        raise
    # Pillow raises OSError, ValueError, SyntaxError and others, and its warnings if they are errors.
    except Exception as error:
        raise damaged(contents.format, f"it cannot be decoded ({_in_one_line(error)})") from error


def _in_one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its message holds the BytesIO's address
        return "unknown header"
    return " ".join(str(error).split()) or type(error).__name__


def _decode_bmp(data: bytes, contents: Contents) -> Image.Image:
    bits, start, rows = bmp.layout(data)
    row_bytes = bmp.row_bytes(contents.width_px, bits)
    padded = np.frombuffer(data, np.uint8, abs(rows) * row_bytes, start).reshape(abs(rows), row_bytes)
    levels = padded[:, : contents.width_px * bits // 8].reshape(abs(rows), contents.width_px, bits // 8)
    top_down = levels if rows < 0 else levels[::-1]
    return Image.fromarray(np.ascontiguousarray(top_down[..., [0, 0, 0] if bits == 8 else [2, 1, 0]]))


def _decode_with_pillow(data: bytes, contents: Contents) -> Image.Image:
    picture = b"".join(data[part] for part in contents.parts)
    if contents.format == "WebP":
        picture = first_frame(picture)
    with Image.open(io.BytesIO(picture), formats=(contents.format,)) as image:
        if image.size != (contents.width_px, contents.height_px):
            raise damaged(contents.format, f"a second size of {image.width} × {image.height}")
        if contents.format == "GIF":
            if np.asarray(image).max() >= contents.palette_size:
                raise damaged("GIF", "a colour that its palette does not have")
            return _on_black(image)
        if image.mode == "CMYK":
            return _without_black(image)
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def _on_black(image: Image.Image) -> Image.Image:
    """Convert a GIF; its transparent pixels become black."""
    opaque = image.convert("RGBA")
    on_black = Image.new("RGB", image.size)
    on_black.paste(opaque, mask=opaque.getchannel("A"))
    return on_black


def _without_black(image: Image.Image) -> Image.Image:
    """Convert CMYK as TensorFlow does; Pillow's own conversion rounds in another way."""
    # Adobe stores inverted levels. Pillow takes every file for one of Adobe's, and inverts it.
    inks = np.asarray(image) if "adobe" not in image.info else ~np.asarray(image)
    levels = inks.astype(np.uint16)
    return Image.fromarray((levels[..., :3] * levels[..., 3:] // 255).astype(np.uint8))
