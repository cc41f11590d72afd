"""The server answers any request with a proper status and keeps serving."""

import io
import random
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from local_server import configuration
from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters
from local_server.models import Models
from local_server.servable import Servable
from local_server.services import build_server
from trainer import run

PREDICT = "/tensorflow.serving.PredictionService/Predict"
EXPECTED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
NOT_A_MESSAGE = "Exception deserializing request!"
MANY_EXAMPLES = 150
MANY = settings(
    max_examples=MANY_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
each_number_of_examples = pytest.mark.parametrize(
    "examples", [20, pytest.param(MANY_EXAMPLES, marks=pytest.mark.soak)]
)

Send = Callable[[bytes], grpc.StatusCode]


@pytest.fixture(scope="module", params=["without batching", "batching"])
def send(request: pytest.FixtureRequest, published: run.Published) -> Iterator[Send]:
    """Send bytes as a PredictRequest, check that the server still answers, and return the status."""
    scheduler = BatchScheduler(BatchingParameters(max_batch_size=64)) if request.param == "batching" else None
    models = Models(lambda name, version, path: Servable(name, version, path, scheduler))
    models.configure(configuration.of_one_model("tiny", published.path.parent))
    models.poll()
    server, port = build_server(models, "localhost:0", max_threads=8)
    server.start()
    good = predict_pb2.PredictRequest()
    good.model_spec.name = "tiny"
    good.inputs["images"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 32, 32, 3), np.float32)))
    with grpc.insecure_channel(f"localhost:{port}", [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(PREDICT, request_serializer=None, response_deserializer=None)

        def status(raw: bytes) -> grpc.StatusCode:
            try:
                call(raw, timeout=60)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
                assert "Traceback" not in error.details()
                # gRPC itself answers INTERNAL to bytes that are not a protocol buffer. The server must not.
                assert code != grpc.StatusCode.INTERNAL or error.details() == NOT_A_MESSAGE, error.details()
            call(good.SerializeToString(), timeout=60)  # raises if the server stopped answering
            return code

        yield status
    server.stop(None).wait()


names = st.text(max_size=8) | st.sampled_from(["images", "encoded", "query", "tiny", "serving_default"])
sizes = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40)


@st.composite
def tensors(draw: st.DrawFn) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto()
    tensor.dtype = draw(st.sampled_from(list(types_pb2.DataType.values())))
    tensor.tensor_shape.unknown_rank = draw(st.sampled_from([False, False, False, True]))
    for size in draw(st.lists(sizes, max_size=5)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = draw(st.binary(max_size=64))
    tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    tensor.string_val.extend(draw(st.lists(st.binary(max_size=32), max_size=4)))
    tensor.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    tensor.half_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    return tensor


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = draw(st.just("tiny") | names)
    # Not "__saved_model_init_op", to which TensorFlow Serving itself answers INTERNAL.
    signatures = ["", "serving_default", "encoded_images", "describe"]
    request.model_spec.signature_name = draw(st.sampled_from(signatures) | names)
    if draw(st.booleans()):
        request.model_spec.version.value = draw(st.integers(-(2**63), 2**63 - 1) | st.just(1))
    for name in draw(st.lists(names, max_size=3)):
        request.inputs[name].CopyFrom(draw(tensors()))
    request.output_filter.extend(draw(st.lists(names, max_size=2)))
    return bytes(request.SerializeToString())


@each_number_of_examples
def test_tensors_names_dtypes_and_shapes_of_any_kind(send: Send, examples: int) -> None:
    @settings(MANY, max_examples=examples)
    @given(raw=requests())
    def check(raw: bytes) -> None:
        assert send(raw) in {grpc.StatusCode.OK, *EXPECTED}

    check()


def encoded_request(*pictures: bytes) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "encoded_images"
    request.inputs["encoded"].CopyFrom(tf.make_tensor_proto(list(pictures)))
    return bytes(request.SerializeToString())


@each_number_of_examples
def test_truncated_and_damaged_messages(send: Send, examples: int) -> None:
    valid = encoded_request(picture("PNG"), picture("JPEG"))

    @settings(MANY, max_examples=examples)
    @given(seed=st.integers(0, 2**32), cut=st.floats(0, 1), flips=st.integers(0, 20))
    def check(seed: int, cut: float, flips: int) -> None:
        raw, rng = bytearray(valid), random.Random(seed)
        for _ in range(flips):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        code = send(bytes(raw[: int(len(raw) * cut)]))
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, *EXPECTED}

    check()


def picture(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(buffer, format=kind)
    return buffer.getvalue()


@each_number_of_examples
def test_damaged_pictures(send: Send, examples: int) -> None:
    @settings(MANY, max_examples=examples)
    @given(
        kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]),
        seed=st.integers(0, 2**32),
        flips=st.integers(1, 30),
        cut=st.floats(0, 1),
    )
    def check(kind: str, seed: int, flips: int, cut: float) -> None:
        data, rng = bytearray(picture(kind)), random.Random(seed)
        for _ in range(flips):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        assert send(encoded_request(bytes(data[: max(1, int(len(data) * cut))]))) in {
            grpc.StatusCode.OK,
            grpc.StatusCode.INVALID_ARGUMENT,
        }

    check()


def png_that_claims(width: int, height: int, rows: int) -> bytes:
    """Return a small PNG file whose header claims this size and which holds that many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return len(data).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes((1 + 3 * width) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BOMBS = {
    "a PNG of 2^31 by 2^31 pixels": png_that_claims(2**31 - 1, 2**31 - 1, 0),
    "a PNG of 60,000 by 60,000 pixels": png_that_claims(60_000, 60_000, 1),
    "a PNG of 8,000 by 8,000 pixels in 190 kB": png_that_claims(8_000, 8_000, 8_000),
    "a GIF of 65,535 by 65,535 pixels": b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(4) + b"\xff" * 4
    + b"\x00",
    "a BMP of 2^30 by 2^30 pixels": b"BM" + bytes(12) + (40).to_bytes(4, "little")
    + (2**30).to_bytes(4, "little") * 2 + bytes([1, 0, 24, 0]) + bytes(24),
    "50 MB of zeros": bytes(50_000_000),
    "50 MB after a JPEG": picture("JPEG") + bytes(50_000_000),
    "50 MB after the header of a PNG": picture("PNG")[:33] + bytes(50_000_000),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bombs_and_50_mb_images(send: Send, bomb: str) -> None:
    assert send(encoded_request(BOMBS[bomb])) in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.soak
def test_decompression_bombs_at_the_same_time(send: Send) -> None:
    raw = [encoded_request(BOMBS[name]) for name in sorted(BOMBS)]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(send, raw)) <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
