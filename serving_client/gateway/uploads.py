"""Read the images of an HTTP request, within the limits."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving_client.errors import ImageError
from serving_client.gateway.admission import Limits
from serving_client.preprocessing import image_size

Upload = tuple[str, bytes | ImageError]
"""An image's name, and its bytes or the reason why it is refused."""

# Name of an image without a file name.
UNNAMED = "image"

_FORM = "multipart/form-data"


async def read(request: Request, limits: Limits) -> Sequence[Upload]:
    """Read the images: the files of a multipart form, or the body as a single image.

    Raises:
      HTTPException: 400 for no image, too many, or a form that cannot be parsed; 413 for too many bytes.
    """
    if is_form(request):
        uploads = await _files(request, limits)
    else:
        uploads = [(UNNAMED, await request.body())]
    if not uploads or uploads[0] == (UNNAMED, b""):
        raise HTTPException(400, "The request must hold an image. Received: none.")
    return [(name, _check_pixels(limits, name, data)) for name, data in uploads]


def is_form(request: Request) -> bool:
    """Whether the request is a form. It may hold several images, and each gets a result of its own."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == _FORM


async def _files(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    async with request.form(max_files=limits.images) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        return [(file.filename or UNNAMED, await file.read()) for file in files]


def _check_pixels(limits: Limits, name: str, data: bytes) -> bytes | ImageError:
    """Return an error for an image with too many pixels. It reads the header only and decodes nothing."""
    try:
        width, height = image_size(data)
    except ImageError:
        return data  # the client will report what is wrong with it
    if width * height > limits.pixels:
        return ImageError(
            f"{name}: an image must have at most {limits.pixels / 1e6:g} megapixels. Received: "
            f"{width} × {height} pixels. Send a smaller image."
        )
    return data
