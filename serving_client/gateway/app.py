"""The gateway: an image comes in over HTTP, labels go out as JSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from serving_client import errors
from serving_client.aio import AsyncClient
from serving_client.errors import ImageError, ServingError
from serving_client.gateway import observing, schemas, uploads
from serving_client.gateway.fetching import Fetcher
from serving_client.gateway.settings import Limits
from serving_client.gateway.turns import Turns
from serving_client.protocol import Via

# A probe must know soon.
_READY_TIMEOUT_S = 3

_PAGE = Path(__file__).with_name("page")
_PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

_STATUS: dict[type[ServingError], int] = {
    errors.ServerUnavailable: 503,
    errors.ModelNotFound: 503,
    errors.DeadlineExceeded: 504,
}

_PROBLEMS = {
    400: "no image that can be read, or too many",
    403: "no picture is fetched",
    413: "too many bytes",
    422: "a parameter out of range",
    502: "the model server failed",
    503: "the model server is not there, or there is too much to do",
    504: "the model server did not answer in time",
}

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/gif")
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def create_app(open_client: Callable[[], AsyncClient], limits: Limits) -> FastAPI:
    """Build the ASGI application.

    Args:
      open_client: called once, in the event loop, when the application starts.
    """
    metrics = observing.Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        fetcher = Fetcher(limits)
        async with open_client() as client:
            yield {"client": client, "fetcher": fetcher, "limits": limits, "metrics": metrics}
        await fetcher.close()

    app = FastAPIOffline(
        title="Image classifier",
        description="Labels of pictures. The model runs on TensorFlow Serving.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Turns, limits=limits)
    app.add_middleware(observing.Observed, metrics=metrics)
    app.add_exception_handler(ServingError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.post(
        "/v1/classify",
        openapi_extra={"requestBody": {"required": True, "content": _bodies(limits)}},
        responses=_problems(*_PROBLEMS),
        response_model_exclude_none=True,
    )(classify)
    app.get("/v1/model", responses=_problems(502, 503, 504))(describe)
    app.get("/healthz", response_class=PlainTextResponse)(healthz)
    app.get("/readyz", response_class=PlainTextResponse, responses=_problems(503))(readyz)
    app.get("/metrics", include_in_schema=False)(prometheus)
    for path in _PAGE_FILES:
        app.get(path, include_in_schema=False)(page)
    observing.trace(app)
    return app


async def classify(
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=1_000, description="labels per image, at most")] = 3,
    via: Annotated[Via, Query(description="what is sent to the model: float32 images or files")] = "images",
) -> schemas.Classified:
    """Classify pictures: one as the body, several as multipart/form-data, or URLs of allowed hosts as JSON.

    In a form or a list, those that cannot be read have an `error` in their place; a body that cannot be
    read is 400.
    """
    state = request.state
    found = await uploads.read(request, state.limits, state.fetcher)
    state.images = len(found)
    images = [image for _, image in found if not isinstance(image, ImageError)]
    answers = state.client.stream(images, top_k=top_k, via=via)
    results = [image if isinstance(image, ImageError) else await anext(answers) for _, image in found]
    bad = [result for result in results if isinstance(result, ImageError)]
    state.metrics.images.labels("unreadable").inc(len(bad))
    state.metrics.images.labels("classified").inc(len(results) - len(bad))
    if bad and not uploads.is_list(request):
        raise HTTPException(400, str(bad[0]))
    return schemas.Classified(
        model=state.client.model,
        results=[
            schemas.image_result(name, result) for (name, _), result in zip(found, results, strict=True)
        ],
    )


async def describe(request: Request) -> schemas.Model:
    """Return what the model says of itself."""
    return schemas.model(await request.state.client.describe())


async def healthz() -> str:
    """Return 200 while the process runs."""
    return "ok"


async def readyz(request: Request) -> str:
    """Return 200 when the model server answers for the model."""
    try:
        await asyncio.wait_for(request.state.client.describe(), _READY_TIMEOUT_S)
    except (ServingError, asyncio.TimeoutError) as error:
        raise HTTPException(503, str(error) or f"no answer within {_READY_TIMEOUT_S} s") from error
    return "ready"


async def prometheus(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(generate_latest(request.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def page(request: Request) -> FileResponse:
    """Return one of the page's files."""
    return FileResponse(_PAGE / _PAGE_FILES[request.url.path], headers=_PAGE_HEADERS)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Turn the client's error into a status: the one place where that happens."""
    status = _STATUS.get(type(error), 502)  # type: ignore[arg-type]  # registered for ServingError
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"detail": str(error)}, status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(map(str, first["loc"]))
    return JSONResponse({"detail": f"{where}: {first['msg']}. Received: {first['input']!r}."}, 422)


def _bodies(limits: Limits) -> dict[str, Any]:
    """Return OpenAPI's description of what may be posted: `uploads.read` reads it."""
    parts = {"type": "array", "items": _BINARY["schema"], "minItems": 1, "maxItems": limits.images}
    form = {"type": "object", "properties": {"images": parts}, "required": ["images"]}
    bodies: dict[str, Any] = {
        **dict.fromkeys(_IMAGE_TYPES, _BINARY),
        "multipart/form-data": {
            "schema": form,
            "encoding": {"images": {"contentType": ", ".join(_IMAGE_TYPES)}},
        },
    }
    if limits.url_hosts:
        bodies["application/json"] = {"schema": schemas.Urls.model_json_schema()}
    return bodies


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem, "description": _PROBLEMS[status]} for status in statuses}
