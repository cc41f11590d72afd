"""What the client costs, compared with TensorFlow's packages and with gRPC alone.

    python -m benchmarks.client --data DIR --json OUT

Both ways are measured in one run, in alternation. DIR holds JPEG files at any depth; without it, images of
600 x 800 pixels are generated. Two environments are installed with pip into a temporary directory (2.3 GB).
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import figures, stub_server
from serving_client import Client, InputSpec, codec, preprocessing, wire
from serving_client.connection import Metadata
from serving_client.protocol import Call
from serving_client.transport.threads import Conversation, Transport

OURS = "import serving_client"
THEIRS = "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc"
LIMITS: figures.Limits = {
    "import_ratio": (">=", 12.0),
    "import_mb": ("<=", 60.0),
    "env_mb": ("<=", 125.0),
    "request_build_ratio": ("<=", 1.0),
    "jpeg_to_request_ratio": (">=", 1.5),
    "call_overhead_ms": ("<=", 1.0),
}
CLASSIFIED_PX = 96
"""Image size of the model whose `classify` is compared with the bare call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """How much is measured; `*_rounds` say how often each way takes its turn."""

    image_count: int = 192
    image_size_px: int = 299
    batch_size: int = 32
    import_rounds: int = 5
    call_rounds: int = 300
    build_rounds: int = 15
    jpeg_rounds: int = 5
    with_dependencies: bool = True


QUICK = Workload(
    image_count=4,
    image_size_px=32,
    batch_size=2,
    import_rounds=1,
    call_rounds=2,
    build_rounds=1,
    jpeg_rounds=1,
    with_dependencies=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; return the exit code."""
    arguments = figures.parse_arguments(__doc__, argv, optional=("data",))
    workload = QUICK if arguments.quick else Workload()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the first import of TensorFlow
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        files = jpeg_files(arguments.data, work / "generated", workload.image_count)
        measured = {
            **imports(workload),
            **call_overhead(files[0], workload),
            **request_build(workload),
            **jpeg_to_request(files, workload),
            **environments(work, workload),
        }
    figures.print_table(["figure", "value"], [[key, f"{value:.3f}"] for key, value in measured.items()])
    return figures.finish(measured, LIMITS, arguments)


def imports(workload: Workload) -> dict[str, float]:
    """Import each in new processes, in alternation: seconds, and resident memory in MB (2^20 bytes)."""
    measured: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    for _ in range(workload.import_rounds):
        for statement, samples in measured.items():
            code = (
                f"import time; started = time.perf_counter(); {statement}; "
                "seconds = time.perf_counter() - started; "
                "pages = int(open('/proc/self/statm').read().split()[1]); "
                "import os; print(seconds, pages * os.sysconf('SC_PAGE_SIZE') / 2**20)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=figures.ROOT
            )
            seconds, mb = map(float, done.stdout.split())
            samples.append((seconds, mb))
    (ours_s, ours_mb), (theirs_s, theirs_mb) = (
        [statistics.median(column) for column in zip(*samples, strict=True)] for samples in measured.values()
    )
    return {
        "import_s": ours_s,
        "import_mb": ours_mb,
        "tensorflow_serving_import_s": theirs_s,
        "tensorflow_serving_import_mb": theirs_mb,
        "import_ratio": theirs_s / ours_s,
    }


def call_overhead(image: Path, workload: Workload) -> dict[str, float]:
    """Compare `classify` with decoding, resizing and the bare gRPC call, one after the other."""
    with stub_server.running(CLASSIFIED_PX) as address, Client(address, model="m") as client:
        spec = client.describe().input
        row = preprocessing.preprocess(image, spec)[np.newaxis]
        request = codec.encode_predict_request("m", "serving_default", {"images": row})
        bare = Call(wire.PREDICT, request)
        whole, parts = alternate(
            workload.call_rounds,
            lambda: client.classify([image]),
            lambda: (preprocessing.preprocess(image, spec), client.send(bare)),
        )
    return {
        "classify_ms": whole * 1e3,
        "preprocess_and_bare_call_ms": parts * 1e3,
        "call_overhead_ms": (whole - parts) * 1e3,
    }


def request_build(workload: Workload) -> dict[str, float]:
    """Build the bytes of a request from a large batch, and compare with TensorFlow's tensor message."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    shape = (workload.batch_size, workload.image_size_px, workload.image_size_px, 3)
    batch = np.random.default_rng(0).random(shape, np.float32)

    def theirs() -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(batch))
        request.SerializeToString()

    ours_s, tensor_s, theirs_s = alternate(
        workload.build_rounds,
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


def jpeg_to_request(files: Sequence[Path], workload: Workload) -> dict[str, float]:
    """Turn JPEG files into requests as `Client.stream` does, and as the Bookcamp recipe's client does.

    The recipe loads with `load_img`, which resizes to the nearest pixel, then calls `preprocess_input`,
    `np.array` and `make_tensor_proto`. The client antialiases, as the model was trained, and decodes in as
    many threads as there are cores. `jpeg_to_request_one_thread_ratio` is the same work in one thread.
    """
    import tensorflow as tf
    from keras.applications.xception import preprocess_input
    from keras.utils import load_img
    from tensorflow_serving.apis import predict_pb2

    size = workload.image_size_px
    spec = InputSpec(size, size, "tf")
    starts = range(0, len(files), workload.batch_size)
    batches = [files[start : start + workload.batch_size] for start in starts]

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

    with InstantClient(size) as client:

        def ours() -> None:
            assert sum(1 for _ in client.stream(files)) == len(files)

        ours_s, one_thread_s, theirs_s = alternate(workload.jpeg_rounds, ours, one_thread, theirs)
    return {
        "jpeg_to_request_images_per_s": len(files) / ours_s,
        "jpeg_to_request_one_thread_images_per_s": len(files) / one_thread_s,
        "load_img_images_per_s": len(files) / theirs_s,
        "jpeg_to_request_one_thread_ratio": theirs_s / one_thread_s,
        "jpeg_to_request_ratio": theirs_s / ours_s,
    }


class InstantClient(Client):
    """A client whose calls are answered in this process, so that only its own work takes time."""

    def __init__(self, image_size_px: int) -> None:
        """Connect to nothing."""
        super().__init__("localhost:1", model="m")
        self._transport = InstantTransport(stub_server.model_card(image_size_px))
        self.describe()


class InstantTransport(Transport):
    """Answers in this process."""

    def __init__(self, card: bytes) -> None:
        """Connect to nothing."""
        super().__init__("localhost:1", "m")
        self._card = card

    def conversation(self, timeout_s: float, metadata: Metadata = ()) -> Conversation:
        """Begin a conversation whose calls are answered at once."""
        return InstantConversation(self, timeout_s, self._card)


class InstantConversation(Conversation):
    """Calls that are answered in this process."""

    def __init__(self, transport: Transport, timeout_s: float, card: bytes) -> None:
        """Answer with this card."""
        super().__init__(transport, timeout_s, ())
        self._card = card

    def send(self, call: Call) -> bytes:
        """Answer the call."""
        return stub_server.respond(call.request, self._card)


def environments(work: Path, workload: Workload) -> dict[str, float]:
    """Install the client and tensorflow-serving-api, each into a folder; return sizes in MB (2^20 bytes)."""
    sizes = {}
    for name, package in (
        ("env_mb", str(figures.ROOT)),
        ("tensorflow_serving_env_mb", "tensorflow-serving-api"),
    ):
        directory = work / name
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory), package]
        command += ["--constraint", str(figures.ROOT / "constraints.txt")]
        subprocess.run(command + ([] if workload.with_dependencies else ["--no-deps"]), check=True)
        sizes[name] = sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file()) / 2**20
    return sizes


def alternate(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """Return each function's median seconds; they take turns, so that other load on the machine meets all."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, measured in zip(functions, seconds, strict=True):
            started = time.perf_counter()
            function()
            measured.append(time.perf_counter() - started)
    return [statistics.median(measured) for measured in seconds]


def jpeg_files(data: Path | None, directory: Path, count: int) -> list[Path]:
    """Return that many JPEG files: from `data`, or generated from soft noise, as photographs are soft."""
    if data:
        found = sorted(data.rglob("*.jpg"))
        if not found:
            sys.exit(f"benchmarks.client: --data must hold JPEG files (*.jpg). Received: {data} without any.")
        return found[:: max(1, len(found) // count)][:count]
    directory.mkdir()
    noise: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (count, 75, 100, 3), np.uint8)
    for number, levels in enumerate(noise):
        image = Image.fromarray(levels).resize((800, 600), Image.Resampling.BICUBIC)
        image.save(directory / f"{number}.jpg")
    return sorted(directory.glob("*.jpg"))


if __name__ == "__main__":
    sys.exit(main())
