"""HTTP request → named images, within the limits."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving_client.errors import ImageError
from serving_client.gateway.fetching import Fetcher
from serving_client.gateway.schemas import Urls
from serving_client.gateway.settings import Limits
from serving_client.preprocessing import FORMATS

Upload = tuple[str, bytes | ImageError]
"""An image's name, and its bytes or why it is not to be had."""

BODY_NAME = "image"

_FORM = "multipart/form-data"
_JSON = "application/json"


async def read(request: Request, limits: Limits, fetcher: Fetcher) -> Sequence[Upload]:
    """Read the images: multipart, a JSON list of URLs, or else the body is the image.

    Raises:
      HTTPException: 400 no image, too many, or nothing that can be parsed; 403 URLs, and no host is allowed;
        413 too many bytes.
    """
    kind = _kind(request)
    if kind == _FORM:
        uploads = await _parts(request, limits)
    elif kind == _JSON:
        uploads = await fetcher.fetch_all(await _urls(request, limits))
    else:
        uploads = [(BODY_NAME, await request.body())]
    if not any(uploads[:1]) or uploads[0] == (BODY_NAME, b""):
        raise HTTPException(400, "The request must hold an image. Received: none.")
    return [(name, _within(limits, name, data)) for name, data in uploads]


def is_list(request: Request) -> bool:
    """Whether several images may be in the request, of which each is answered for itself."""
    return _kind(request) in (_FORM, _JSON)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parts(request: Request, limits: Limits) -> list[Upload]:
    async with request.form(max_files=limits.images) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        return [(file.filename or BODY_NAME, await file.read()) for file in files]


async def _urls(request: Request, limits: Limits) -> list[str]:
    if not limits.url_hosts:
        raise HTTPException(403, "This gateway fetches no pictures. Send them, or see --allow-url-host.")
    try:
        urls = Urls.model_validate_json(await request.body()).urls
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise HTTPException(
            400, f'JSON must be {{"urls": ["https://…"]}}. Received: {where}: {first["msg"]}.'
        ) from error
    if len(urls) > limits.images:
        raise HTTPException(400, f"Too many URLs. Maximum number is {limits.images}. Received: {len(urls)}.")
    return urls


def _within(limits: Limits, name: str, data: bytes | ImageError) -> bytes | ImageError:
    """Replace an image of too many pixels, by what its header says, before anything is decoded."""
    if isinstance(data, ImageError):
        return data
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return data  # the client says what is wrong with it
    if width * height > limits.pixels:
        return ImageError(
            f"{name}: an image may have {limits.pixels / 1e6:g} megapixels. Received: {width} × {height}."
        )
    return data
