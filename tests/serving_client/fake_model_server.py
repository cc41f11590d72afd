"""A fake of TensorFlow Serving: a real gRPC server whose model answers constants and names its server.

In a process of its own: python -m tests.serving_client.fake_model_server 127.0.0.2:8500
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from serving_client import wire


def card(size_px: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": "m",
        "version": 1,
        "model_id": f"{size_px:016}",
        "labels": ["a", "b"],
        "metrics": {},
        "input": {
            "height_px": size_px,
            "width_px": size_px,
            "channels": "RGB",
            "preprocessing": "tf",
            "resize_filter": "bilinear",
        },
    }


class FakeModel:
    """Answers label "b" with 0.75. It first fails as many calls as `fail` lists statuses."""

    def __init__(self, server_name: str = "", size_px: int = 96) -> None:
        self.server_name = server_name
        self.card = card(size_px)
        self.calls = 0
        self.fail: list[grpc.StatusCode] = []
        self.delay_s = 0.0

    def predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        time.sleep(self.delay_s)
        if self.fail:
            context.abort(self.fail.pop(0), "told to fail")
        return self.respond(request)

    def respond(self, request: bytes) -> bytes:
        inputs = wire.PredictRequest.FromString(request).inputs
        response = wire.PredictResponse()
        response.model_spec.version.value = 1
        if "query" in inputs:
            set_text(response.outputs["card"], json.dumps(self.card))
        else:
            set_text(response.outputs["server"], self.server_name)
            set_text(response.outputs["model_id"], self.card["model_id"])
            rows = inputs["images"].tensor_shape.dim[0].size
            probabilities = response.outputs["probabilities"]
            probabilities.dtype = wire.DataType.DT_FLOAT
            for size in (rows, 2):
                probabilities.tensor_shape.dim.add(size=size)
            probabilities.float_val.extend([0.25, 0.75] * rows)
        return response.SerializeToString()


def set_text(tensor: wire.TensorProto, value: str) -> None:
    tensor.dtype = wire.DataType.DT_STRING
    tensor.tensor_shape.dim.add(size=1)
    tensor.string_val.append(value.encode())


def build_server(model: FakeModel, threads: int, *options: tuple[str, int]) -> grpc.Server:
    service = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService",
        {"Predict": grpc.unary_unary_rpc_method_handler(model.predict)},
    )
    return grpc.server(
        ThreadPoolExecutor(threads), [service], options=[("grpc.max_receive_message_length", -1), *options]
    )


@contextlib.contextmanager
def running(address: str) -> Iterator[subprocess.Popen[str]]:
    """Run one in a process of its own."""
    argv = [sys.executable, "-m", "tests.serving_client.fake_model_server", address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def main(address: str) -> None:
    # As in k8s/serving.yaml: closed connections make clients resolve the server's name again.
    server = build_server(FakeModel(address), 4, ("grpc.max_connection_age_ms", 2_000))
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
