"""Time budget, metadata and interceptors, of a client and of a call."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from serving_client import AsyncClient, Client, DeadlineExceeded, ServingError
from tests.serving_client.holding_server import HoldingModel, serving, silent_server

PICTURE = np.zeros((4, 4, 3), np.uint8)
METHODS: dict[str, Sequence[object]] = {
    "classify": [[PICTURE]],
    "predict": [np.zeros((1, 4, 4, 3), np.float32)],
    "describe": [],
    "status": [],
}
OF_CLIENT: list[tuple[str, str | bytes]] = [("authorization", "Bearer 1"), ("trace-bin", b"\0\xff")]
OF_CALL: list[tuple[str, str | bytes]] = [("x-request", "7")]


class Recorder(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def intercept_unary_unary(self, proceed: Callable[..., Any], details: Any, request: bytes) -> Any:
        self.calls.append(details)
        return proceed(details, request)


class AioRecorder(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def intercept_unary_unary(self, proceed: Callable[..., Any], details: Any, request: bytes) -> Any:
        self.calls.append(details)
        return await proceed(details, request)


def call(is_async: bool, address: str, method: str, options: dict[str, Any], **of_call: Any) -> object:
    """Open a client, make one call and close it."""
    if not is_async:
        with Client(address, model="m", **options) as client:
            return getattr(client, method)(*METHODS[method], **of_call)

    async def ask() -> object:
        async with AsyncClient(address, model="m", **options) as client:
            return await getattr(client, method)(*METHODS[method], **of_call)

    return asyncio.run(ask())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_call_has_the_clients_metadata_and_its_own(method: str, is_async: bool) -> None:
    recorder = AioRecorder() if is_async else Recorder()
    options = {"metadata": OF_CLIENT, "interceptors": [recorder], "timeout_s": 60}
    model = HoldingModel()
    with serving(model) as address:
        try:
            call(is_async, address, method, options, metadata=OF_CALL)
        except ServingError:
            assert method == "status"  # this server has the other service only
        assert len(recorder.calls) >= 1
        for details in recorder.calls:
            assert {*OF_CLIENT, *OF_CALL} <= {(key, value) for key, value in details.metadata}
        if method != "status":
            assert {*OF_CLIENT, *OF_CALL} <= set(model.metadata.items())
            call(is_async, address, method, {"metadata": OF_CLIENT, "timeout_s": 60})
            assert "x-request" not in model.metadata


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_call_may_have_a_budget_of_its_own(method: str, is_async: bool) -> None:
    with silent_server() as (address, _), pytest.raises(DeadlineExceeded):
        call(is_async, address, method, {"timeout_s": 600, "wait_for_ready": True}, timeout_s=0.2)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_may_last_longer_than_the_budget_of_its_batches(is_async: bool) -> None:
    def camera() -> Iterator[np.ndarray]:
        for _ in range(20):
            yield PICTURE
            time.sleep(0.1)

    with serving(HoldingModel()) as address:
        if is_async:

            async def ask() -> int:
                async with AsyncClient(address, model="m") as client:
                    return len([one async for one in client.stream(camera(), timeout_s=1)])

            assert asyncio.run(ask()) == 20
        else:
            with Client(address, model="m") as client:
                assert len(list(client.stream(camera(), timeout_s=1))) == 20
