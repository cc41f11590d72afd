"""The gateway's ASGI application: images in over HTTP, labels out as JSON, and a web page."""

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
from serving_client.gateway import schemas, telemetry, uploads
from serving_client.gateway.admission import AdmissionControl, Limits
from serving_client.protocol import Via

# /readyz must answer before the readiness probe times out (k8s/gateway.yaml).
READY_TIMEOUT_S = 3

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
    400: "no valid image, or too many images",
    413: "the request is too large",
    422: "a parameter is out of range",
    502: "the model server failed",
    503: "the model server is not available, or too many requests are waiting",
    504: "the model server did not answer in time",
}

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/gif")
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def create_app(open_client: Callable[[], AsyncClient], limits: Limits) -> FastAPI:
    """Build the ASGI application.

    Args:
      open_client: called once when the application starts, in its event loop.
    """
    metrics = telemetry.Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        async with open_client() as client:
            yield {"client": client, "limits": limits, "metrics": metrics}

    app = FastAPIOffline(
        title="Image classifier",
        description="Classifies images with a model on TensorFlow Serving.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(AdmissionControl, limits=limits)
    app.add_middleware(telemetry.RequestTelemetry, metrics=metrics)  # outermost: it measures the wait too
    app.add_exception_handler(ServingError, _serving_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.post(
        "/v1/classify",
        openapi_extra={"requestBody": {"required": True, "content": _request_bodies(limits)}},
        responses=_problems(*_PROBLEMS),
        response_model_exclude_none=True,
    )(classify)
    app.get("/v1/model", responses=_problems(502, 503, 504))(describe)
    app.get("/healthz", response_class=PlainTextResponse)(healthz)
    app.get("/readyz", response_class=PlainTextResponse, responses=_problems(503))(readyz)
    app.get("/metrics", include_in_schema=False)(prometheus)
    for path in _PAGE_FILES:
        app.get(path, include_in_schema=False)(page)
    telemetry.instrument(app)
    return app


async def classify(
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=1_000, description="maximum number of labels per image")] = 3,
    via: Annotated[
        Via, Query(description="`images`: the gateway preprocesses; `encoded`: the model server does")
    ] = "images",
) -> schemas.Classified:
    """Classify one image sent as the body, or several sent as multipart/form-data.

    In a form, an invalid image gets an `error` and the others are classified. A body that is not a valid
    image gets status 400.
    """
    state = request.state
    received = await uploads.read(request, state.limits)
    state.images = len(received)  # for the log
    images = [image for _, image in received if not isinstance(image, ImageError)]
    async with contextlib.aclosing(state.client.stream(images, top_k=top_k, via=via)) as answers:
        results = [image if isinstance(image, ImageError) else await anext(answers) for _, image in received]
    invalid = [result for result in results if isinstance(result, ImageError)]
    state.metrics.images.labels("unreadable").inc(len(invalid))
    state.metrics.images.labels("classified").inc(len(results) - len(invalid))
    if invalid and not uploads.is_form(request):
        raise HTTPException(400, str(invalid[0]))
    return schemas.Classified(
        model=state.client.model,
        results=[
            schemas.image_result(name, result) for (name, _), result in zip(received, results, strict=True)
        ],
    )


async def describe(request: Request) -> schemas.Model:
    """Return the main facts of the model card."""
    return schemas.model(await request.state.client.describe())


async def healthz() -> str:
    """Return 200 while the process runs."""
    return "ok"


async def readyz(request: Request) -> str:
    """Return 200 if the model server answers for the model, 503 otherwise."""
    try:
        await asyncio.wait_for(request.state.client.describe(), READY_TIMEOUT_S)
    except (ServingError, asyncio.TimeoutError) as error:
        raise HTTPException(
            503, str(error) or f"The model server did not answer within {READY_TIMEOUT_S} s."
        ) from error
    return "ready"


async def prometheus(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(generate_latest(request.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def page(request: Request) -> FileResponse:
    """Return one of the page's files."""
    return FileResponse(_PAGE / _PAGE_FILES[request.url.path], headers=_PAGE_HEADERS)


async def _serving_error(request: Request, error: Exception) -> JSONResponse:
    """Turn the client's error into an HTTP status. Only this function maps errors to statuses."""
    status = _STATUS.get(type(error), 502)  # type: ignore[arg-type]  # registered for ServingError
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"detail": str(error)}, status, headers)


async def _invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(map(str, first["loc"]))
    return JSONResponse({"detail": f"{where}: {first['msg']}. Received: {first['input']!r}."}, 422)


def _request_bodies(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI description of the bodies that `uploads.read` reads."""
    parts = {"type": "array", "items": _BINARY["schema"], "minItems": 1, "maxItems": limits.images}
    form = {"type": "object", "properties": {"images": parts}, "required": ["images"]}
    return {
        **dict.fromkeys(_IMAGE_TYPES, _BINARY),
        "multipart/form-data": {
            "schema": form,
            "encoding": {"images": {"contentType": ", ".join(_IMAGE_TYPES)}},
        },
    }


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem, "description": _PROBLEMS[status]} for status in statuses}
