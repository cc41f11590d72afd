"""What the client costs, beside TensorFlow's own way and beside gRPC alone.

    python benchmarks/client.py --json OUT [--data DIR]

Both ways are measured in one run, in turns. DIR holds JPEG files (anywhere below it); without it, pictures of
600 x 800 pixels are made. Two environments are installed with pip into a temporary directory (2.3 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import limits  # beside this file
import numpy as np
import numpy.typing as npt
from PIL import Image

from serving_client import Client, codec, preprocessing, wire
from serving_client.preprocessing import InputSpec
from serving_client.protocol import Call

ROOT = Path(__file__).parents[1]
OURS = "import serving_client"
THEIRS = "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc"
LIMITS: limits.Limits = {
    "import_ratio": (">=", 12.0),
    "import_mb": ("<=", 60.0),
    "env_mb": ("<=", 125.0),
    "request_build_ratio": ("<=", 1.0),
    "jpeg_to_request_ratio": (">=", 1.5),
    "call_overhead_ms": ("<=", 1.0),
}
BATCH = (32, 299, 299, 3)
PICTURES = 192


def main() -> int:
    """Print the figures; return 0 if every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="where the figures go")
    parser.add_argument("--data", type=Path, metavar="DIR", help="JPEG files (default: made)")
    arguments = parser.parse_args()
    # Said before the first import of TensorFlow, here and in the processes below.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        files = jpeg_files(arguments.data, work / "pictures")
        figures = {
            **imports(),
            **call_overhead(files[0]),
            **request_build(),
            **jpeg_to_request(files),
            **environments(work),
        }
    arguments.json.write_text(json.dumps(figures, indent=2))
    for key, value in figures.items():
        if key not in LIMITS:
            print(f"{key:<36} {value:>10.3f}")
    return 0 if limits.hold(figures, LIMITS) else 1


def imports() -> dict[str, float]:
    """Import each in new processes, in turns: seconds, and the process' resident memory in MB."""
    measured: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    for _ in range(5):
        for statement, figures in measured.items():
            code = (
                f"import time; started = time.perf_counter(); {statement}; "
                "seconds = time.perf_counter() - started; "
                "pages = int(open('/proc/self/statm').read().split()[1]); "
                "import os; print(seconds, pages * os.sysconf('SC_PAGE_SIZE') / 2**20)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
            )
            seconds, mb = map(float, done.stdout.split())
            figures.append((seconds, mb))
    (ours_s, ours_mb), (theirs_s, theirs_mb) = (
        [statistics.median(column) for column in zip(*figures, strict=True)] for figures in measured.values()
    )
    return {
        "import_s": ours_s,
        "import_mb": ours_mb,
        "tensorflow_serving_import_s": theirs_s,
        "tensorflow_serving_import_mb": theirs_mb,
        "import_ratio": theirs_s / ours_s,
    }


def call_overhead(picture: Path) -> dict[str, float]:
    """Compare a call of `classify` with decoding, resizing and the bare gRPC call, one after the other."""
    with answering() as address, Client(address, model="m") as client:
        spec = client.describe().input
        row = preprocessing.preprocess(picture, spec)[np.newaxis]
        request = codec.encode_predict_request("m", "serving_default", {"images": row})
        bare = Call(wire.PREDICT, request)
        whole, parts = in_turns(
            300,
            lambda: client.classify([picture]),
            lambda: (preprocessing.preprocess(picture, spec), client.send(bare)),
        )
    return {
        "classify_ms": whole * 1e3,
        "preprocess_and_bare_call_ms": parts * 1e3,
        "call_overhead_ms": (whole - parts) * 1e3,
    }


def request_build() -> dict[str, float]:
    """Build the bytes of a request from a large batch, beside TensorFlow's tensor message."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    batch = np.random.default_rng(0).random(BATCH, np.float32)

    def theirs() -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(batch))
        request.SerializeToString()

    ours_s, tensor_s, theirs_s = in_turns(
        15,
        lambda: codec.encode_predict_request("m", "serving_default", {"images": batch}),
        lambda: tf.make_tensor_proto(batch),
        theirs,
    )
    return {
        "request_build_ms": ours_s * 1e3,
        "make_tensor_proto_ms": tensor_s * 1e3,
        "tensorflow_request_bytes_ms": theirs_s * 1e3,
        "request_build_ratio": ours_s / tensor_s,
    }


def jpeg_to_request(files: Sequence[Path]) -> dict[str, float]:
    """From JPEG files to requests of 32, as `stream` makes them in its threads, and as the course does.

    The course's way: `load_img` to the size, which takes the nearest pixel, `preprocess_input`, `np.array`,
    `make_tensor_proto`. Ours antialiases, as the model was trained; it decodes in as many threads as there
    are cores. `jpeg_to_request_one_thread_ratio` is the same work in one.
    """
    import tensorflow as tf
    from keras.applications.xception import preprocess_input
    from keras.utils import load_img
    from tensorflow_serving.apis import predict_pb2

    size = BATCH[1]
    spec = InputSpec(size, size, "tf")
    batches = [files[start : start + BATCH[0]] for start in range(0, len(files), BATCH[0])]

    def theirs() -> None:
        for batch in batches:
            rows = [np.array(load_img(file, target_size=(size, size))) for file in batch]
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            request.inputs["images"].CopyFrom(
                tf.make_tensor_proto(preprocess_input(np.array(rows, "float32")))
            )
            request.SerializeToString()

    def one_thread() -> None:
        for batch in batches:
            rows = np.stack([preprocessing.preprocess(file, spec) for file in batch])
            codec.encode_predict_request("m", "serving_default", {"images": rows})

    with Client("localhost:1", model="m") as client:
        ours = streaming(client, spec, files)
        ours_s, one_thread_s, theirs_s = in_turns(5, ours, one_thread, theirs)
    return {
        "jpeg_to_request_images_per_s": len(files) / ours_s,
        "jpeg_to_request_one_thread_images_per_s": len(files) / one_thread_s,
        "load_img_images_per_s": len(files) / theirs_s,
        "jpeg_to_request_one_thread_ratio": theirs_s / one_thread_s,
        "jpeg_to_request_ratio": theirs_s / ours_s,
    }


def streaming(client: Client, spec: InputSpec, files: Sequence[Path]) -> Callable[[], None]:
    """Return what runs `Client.stream` itself, with a server that costs nothing."""
    card = {
        "schema_version": 1,
        "name": "m",
        "version": 1,
        "labels": ["a", "b"],
        "input": {
            "height_px": spec.height_px,
            "width_px": spec.width_px,
            "channels": "RGB",
            "preprocessing": spec.mode,
            "resize_filter": spec.resize_filter,
        },
    }

    def send(call: Call) -> bytes:
        asked = wire.PredictRequest.FromString(call.request)
        response = wire.PredictResponse()
        response.model_spec.version.value = 1
        if "query" in asked.inputs:
            response.outputs["card"].dtype = wire.DataType.DT_STRING
            response.outputs["card"].tensor_shape.dim.add(size=1)
            response.outputs["card"].string_val.append(json.dumps(card).encode())
        else:
            rows = asked.inputs["images"].tensor_shape.dim[0].size
            probabilities = response.outputs["probabilities"]
            probabilities.dtype = wire.DataType.DT_FLOAT
            for size in (rows, 2):
                probabilities.tensor_shape.dim.add(size=size)
            probabilities.float_val.extend([0.25, 0.75] * rows)
        return response.SerializeToString()

    client.send = send  # type: ignore[method-assign]  # in place of the network
    client.describe()

    def run() -> None:
        assert sum(1 for _ in client.stream(files)) == len(files)

    return run


def environments(work: Path) -> dict[str, float]:
    """Install the core, and tensorflow-serving-api; return their size on disk without pip, in MB."""
    constraints = ROOT / "constraints.txt"
    sizes = {}
    for name, what in (("env_mb", str(ROOT)), ("tensorflow_serving_env_mb", "tensorflow-serving-api")):
        directory = work / name
        venv.create(directory, with_pip=True)
        python = directory / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, what], check=True
        )
        subprocess.run(
            [python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools"], check=True
        )
        sizes[name] = sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file()) / 2**20
    return sizes


def in_turns(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """Return each function's median seconds; they take turns, so that a noisy machine is so for all."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, measured in zip(functions, seconds, strict=True):
            started = time.perf_counter()
            function()
            measured.append(time.perf_counter() - started)
    return [statistics.median(measured) for measured in seconds]


@contextmanager
def answering() -> Iterator[str]:
    """Run a server that answers at once, in a process of its own; yield its address."""
    address = "127.0.0.1:18599"
    argv = [sys.executable, "-m", "tests.serving_client.fake_model_server", address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield address
        finally:
            process.kill()


def jpeg_files(data: Path | None, made: Path) -> list[Path]:
    """Return PICTURES JPEG files: of `data`, or made of soft noise, as photographs are soft."""
    if data:
        found = sorted(data.rglob("*.jpg"))[:: max(1, len(list(data.rglob("*.jpg"))) // PICTURES)][:PICTURES]
        if not found:
            sys.exit(f"benchmarks/client.py: {data} must hold JPEG files (*.jpg). Received: none.")
        return found
    made.mkdir()
    noise: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (PICTURES, 75, 100, 3), np.uint8)
    for number, levels in enumerate(noise):
        Image.fromarray(levels).resize((800, 600), Image.Resampling.BICUBIC).save(made / f"{number}.jpg")
    return sorted(made.glob("*.jpg"))


if __name__ == "__main__":
    sys.exit(main())
