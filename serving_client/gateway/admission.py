"""Admission control: how large a request may be, and how many are read and answered at the same time."""

from __future__ import annotations

import asyncio
import dataclasses

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the gateway accepts.

    Attributes:
      body_bytes: size of one request, all its images together.
      images: images in one request.
      pixels: pixels of one image; a decoded image takes 4 bytes per pixel.
      requests: requests that are read and answered at the same time.
      waiting: further requests that wait unread; the gateway refuses more with 503.
    """

    body_bytes: int = 32 * 2**20
    images: int = 32
    pixels: int = 50_000_000
    requests: int = 32
    waiting: int = 20_000


class AdmissionControl:
    """ASGI middleware: admits a limited number of POSTs; others wait unread, first come, first served."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._admitted = asyncio.Semaphore(limits.requests)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on once it is admitted. Requests other than POSTs pass at once."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._waiting >= self._limits.waiting:
            refusal = {
                "detail": f"The gateway lets {self._limits.waiting} requests wait, and all places are taken. "
                "Try again later."
            }
            await JSONResponse(refusal, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        self._waiting += 1
        try:
            await self._admitted.acquire()
        finally:
            self._waiting -= 1
        try:
            await self._app(scope, _limit_body(receive, self._limits.body_bytes), send)
        finally:
            self._admitted.release()


def _limit_body(receive: Receive, max_bytes: int) -> Receive:
    """Count the body's bytes as they arrive: a Content-Length may be missing or wrong."""
    received_bytes = 0

    async def receive_within_limit() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > max_bytes:
            # The rest of the body stays unread, so the connection cannot be used again.
            raise HTTPException(
                413,
                f"A request must have at most {max_bytes:,} bytes. Received: more. Send fewer images.",
                {"Connection": "close"},
            )
        return message

    return receive_within_limit
