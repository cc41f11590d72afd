"""A gRPC server on an address of its own that says with each answer which one it is.

python -m tests.serving_client.answering 127.0.0.2:8500
"""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from serving_client import wire

CARD = (
    '{"schema_version": 1, "name": "m", "version": 1, "labels": ["a", "b"], "metrics": {},'
    '"input": {"height_px": 96, "width_px": 96, "channels": "RGB", "preprocessing": "tf",'
    '"resize_filter": "bilinear"}}'
)


def answer(address: str, request: bytes) -> bytes:
    asked = wire.PredictRequest.FromString(request)
    response = wire.PredictResponse()
    response.model_spec.version.value = 1
    if "query" in asked.inputs:
        text(response.outputs["card"], CARD)
    else:
        text(response.outputs["server"], address)
        rows = asked.inputs["images"].tensor_shape.dim[0].size
        probabilities = response.outputs["probabilities"]
        probabilities.dtype = wire.DataType.DT_FLOAT
        for size in (rows, 2):
            probabilities.tensor_shape.dim.add(size=size)
        probabilities.float_val.extend([0.25, 0.75] * rows)
    return response.SerializeToString()


def text(tensor: wire.TensorProto, value: str) -> None:
    tensor.dtype = wire.DataType.DT_STRING
    tensor.tensor_shape.dim.add(size=1)
    tensor.string_val.append(value.encode())


@contextlib.contextmanager
def running(address: str) -> Iterator[subprocess.Popen[str]]:
    """Run one in a process of its own."""
    argv = [sys.executable, "-m", "tests.serving_client.answering", address]
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
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer(address, request))
    service = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": handler}
    )
    # Clients look the name up again when a connection ends, as those of k8s/serving.yaml do.
    server = grpc.server(ThreadPoolExecutor(4), [service], options=[("grpc.max_connection_age_ms", 2_000)])
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
