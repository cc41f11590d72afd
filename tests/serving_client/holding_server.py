"""Servers in this process that keep their callers waiting, for tests of closing and of interruption."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import grpc

from serving_client import wire
from tests.serving_client.fake_model_server import FakeModel, build_server


class HoldingModel(FakeModel):
    """Answers like `FakeModel`, but holds requests with pictures back until it is released.

    Attributes:
      rows: the number of pictures of each request, in the order of arrival.
      arrived: set when a request with pictures has arrived that is held, or would be.
      metadata: what came with the last call.
    """

    def __init__(self, *, is_held: bool = False, answers_first: int = 0) -> None:
        super().__init__(size_px=4)
        self._answers_first = answers_first
        self.rows: list[int] = []
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.metadata: dict[str, str | bytes] = {}
        if not is_held:
            self.released.set()

    def predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        inputs = wire.PredictRequest.FromString(request).inputs
        if "query" not in inputs:
            self.rows.append(inputs["images"].tensor_shape.dim[0].size)
            if len(self.rows) > self._answers_first:
                self.arrived.set()
                self.released.wait()
        return super().predict(request, context)


@contextlib.contextmanager
def serving(model: FakeModel, threads: int = 16) -> Iterator[str]:
    """Yield the address of a server of this model."""
    server = build_server(model, threads)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        if isinstance(model, HoldingModel):
            model.released.set()
        server.stop(None).wait()


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the address of a socket that never answers, and a function that waits for a connection to it."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        yield (
            f"127.0.0.1:{silent.getsockname()[1]}",
            lambda: stack.enter_context(silent.accept()[0]),
        )
