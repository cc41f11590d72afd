"""A gRPC server that answers every image with the same probabilities at once: what is left is the client.

python -m benchmarks.stub_server IMAGE_SIZE_PX
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks import figures
from serving_client import wire

MODEL_ID = "0123456789abcdef"


def model_card(image_size_px: int) -> bytes:
    """Return the card of the model that it claims to serve: two classes, Xception's preprocessing."""
    card = {
        "schema_version": 1,
        "name": "m",
        "version": 1,
        "model_id": MODEL_ID,
        "labels": ["a", "b"],
        "input": {
            "height_px": image_size_px,
            "width_px": image_size_px,
            "channels": "RGB",
            "preprocessing": "tf",
            "resize_filter": "bilinear",
        },
    }
    return json.dumps(card).encode()


def respond(request: bytes, card: bytes) -> bytes:
    """Answer a PredictRequest: with the card if that was asked for, else with probabilities."""
    asked = wire.PredictRequest.FromString(request)
    response = wire.PredictResponse()
    response.model_spec.version.value = 1
    if "query" in asked.inputs:
        _set_strings(response.outputs["card"], [card])
    else:
        rows = asked.inputs["images"].tensor_shape.dim[0].size
        output = response.outputs["probabilities"]
        output.dtype = wire.DataType.DT_FLOAT
        for size in (rows, 2):
            output.tensor_shape.dim.add(size=size)
        output.float_val.extend([0.25, 0.75] * rows)
        _set_strings(response.outputs["model_id"], [MODEL_ID.encode()] * rows)
    return response.SerializeToString()


def _set_strings(output: wire.TensorProto, values: list[bytes]) -> None:
    output.dtype = wire.DataType.DT_STRING
    output.tensor_shape.dim.add(size=len(values))
    output.string_val.extend(values)


@contextlib.contextmanager
def running(image_size_px: int) -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    argv = [sys.executable, "-m", "benchmarks.stub_server", str(image_size_px)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=figures.ROOT) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main(image_size_px: int) -> None:
    """Serve on a free port of this machine, and print the address."""
    card = model_card(image_size_px)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: respond(request, card))
    service = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": handler}
    )
    server = grpc.server(ThreadPoolExecutor(4), [service])
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]))
