"""ASGI: how much of what callers send is looked at, and how much at the same time."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving_client.gateway.settings import Limits


class Turns:
    """Lets so many POSTs in; the others wait before their body is read, in the order of their coming."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.requests)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when it is its turn."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._waiting >= self._limits.waiting:
            refusal = {"detail": f"{self._waiting} requests are waiting. Try again later."}
            await JSONResponse(refusal, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            await self._app(scope, _limited(receive, self._limits.body_bytes), send)
        finally:
            self._turns.release()


def _limited(receive: Receive, most_bytes: int) -> Receive:
    """Count what comes: a Content-Length may be missing, or not true."""
    received = 0

    async def receive_within() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most_bytes:
            # The rest is not read; the connection cannot be used again.
            raise HTTPException(
                413, f"A request may have {most_bytes:,} bytes. Received: more.", {"Connection": "close"}
            )
        return message

    return receive_within
