"""The fake answers as `local_server` does, which tests/local_server compares with TensorFlow Serving."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from serving_client import Client, codec, wire
from serving_client.preprocessing import preprocess_input
from tests.conftest import serving
from tests.model_servers import CLASSES, MODEL, ForeignVersion, Servers, Version, picture
from tests.model_servers.pictures import colour
from tests.model_servers.real_versions import save_foreign_version, save_version

IMAGES = np.stack(
    [preprocess_input(np.full((8, 8, 3), colour(label), np.uint8), "caffe") for label in CLASSES]
)
PICTURES = [picture(label) for label in CLASSES]
FOREIGN = ForeignVersion(1, {"pixels": ("uint8", (4, 4, 3)), "place": ("float32", (2,))})


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, str]]]:
    """For a version of the trainer and a foreign one: the addresses of a fake and of a local server."""
    directory = tmp_path_factory.mktemp("versions")
    save_version(directory / "own" / "1", CLASSES, backbone_name="vgg16")
    save_foreign_version(directory / "foreign" / "1")
    with (
        Servers(2) as servers,
        serving(MODEL, directory / "own") as (own, _),
        serving(MODEL, directory / "foreign") as (foreign, _),
    ):
        servers[0].serve(Version(1, mode="caffe"))
        servers[1].serve(FOREIGN)
        yield {"own": (servers[0].address, own), "foreign": (servers[1].address, foreign)}


def ask(address: str, method: str, request: bytes) -> bytes | tuple[grpc.StatusCode, str]:
    """Return the encoded response, or the status and its message without the names of nodes."""
    with grpc.insecure_channel(address) as channel:
        try:
            response: bytes = channel.unary_unary(method)(request, timeout=30)
            return response
        except grpc.RpcError as error:
            message = re.sub(r"\s*\[\[.*", "", error.details(), flags=re.DOTALL)
            return error.code(), message


def predict_request(
    signature: str, inputs: dict[str, Any], version: int | str | None = None, model: str = MODEL
) -> bytes:
    return codec.encode_predict_request(model, signature, inputs, version)


REFUSED = {
    "unknown model": predict_request("describe", {"query": [b""]}, model="nope"),
    "no model": predict_request("describe", {"query": [b""]}, model=""),
    "unknown version": predict_request("describe", {"query": [b""]}, version=77),
    "unknown label": predict_request("describe", {"query": [b""]}, version="stable"),
    "unknown signature": predict_request("nope", {"query": [b""]}),
    "no input": predict_request("serving_default", {}),
    "another input": predict_request("serving_default", {"x": IMAGES}),
    "an input too many": predict_request("encoded_images", {"encoded": PICTURES, "x": IMAGES}),
    "another dtype": predict_request("serving_default", {"images": IMAGES.astype(np.uint8)}),
    "another size": predict_request("serving_default", {"images": IMAGES[:, :6]}),
    "no image": predict_request("encoded_images", {"encoded": [b"no image"]}),
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED)
def test_refusals(addresses: dict[str, tuple[str, str]], request_bytes: bytes) -> None:
    fake, real = addresses["own"]
    refusal = ask(real, wire.PREDICT, request_bytes)
    assert isinstance(refusal, tuple)
    assert ask(fake, wire.PREDICT, request_bytes) == refusal


ANSWERED = {
    "images": ("own", predict_request("serving_default", {"images": IMAGES})),
    "encoded": ("own", predict_request("encoded_images", {"encoded": [*PICTURES, b"no image"]})),
    "foreign": (
        "foreign",
        predict_request(
            "serving_default",
            {"pixels": np.full((2, 4, 4, 3), 7, np.uint8), "place": np.ones((2, 2), np.float32)},
        ),
    ),
}


@pytest.mark.parametrize(("kind", "request_bytes"), ANSWERED.values(), ids=ANSWERED)
def test_answers(addresses: dict[str, tuple[str, str]], kind: str, request_bytes: bytes) -> None:
    """Names, dtypes and shapes of outputs are equal, and so are the labels."""
    responses = [ask(address, wire.PREDICT, request_bytes) for address in addresses[kind]]
    fake, real = [wire.PredictResponse.FromString(response) for response in responses]  # type: ignore[arg-type]  # no refusals
    assert fake.model_spec == real.model_spec
    outputs, expected = codec.decode_outputs(fake), codec.decode_outputs(real)
    assert {name: (value.dtype, value.shape) for name, value in outputs.items()} == {
        name: (value.dtype, value.shape) for name, value in expected.items()
    }
    for name in set(expected) - {"model_id", "logits", "probabilities"}:
        np.testing.assert_array_equal(outputs[name], expected[name])
    if kind == "own":
        rows = slice(0, len(CLASSES))
        assert outputs["probabilities"][rows].argmax(axis=1).tolist() == list(range(len(CLASSES)))
        assert expected["probabilities"][rows].argmax(axis=1).tolist() == list(range(len(CLASSES)))
        assert np.isnan(outputs["probabilities"]).tolist() == np.isnan(expected["probabilities"]).tolist()


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_metadata(addresses: dict[str, tuple[str, str]], kind: str) -> None:
    request = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = MODEL
    described = []
    for address in addresses[kind]:
        answer = ask(address, wire.GET_MODEL_METADATA, request.SerializeToString())
        assert isinstance(answer, bytes)
        metadata = wire.GetModelMetadataResponse.FromString(answer).metadata["signature_def"]
        found = wire.SignatureDefMap.FromString(metadata.value).signature_def
        described.append({name: str(signature) for name, signature in found.items() if name[:2] != "__"})
        assert metadata.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert described[0] == described[1]


@pytest.mark.parametrize("version", [None, 1, 77, "stable"])
def test_status(addresses: dict[str, tuple[str, str]], version: int | str | None) -> None:
    request = codec.encode_status_request(MODEL, version)
    fake, real = (ask(address, wire.GET_MODEL_STATUS, request) for address in addresses["own"])
    if isinstance(fake, bytes) and isinstance(real, bytes):
        assert codec.decode_status_response(fake) == codec.decode_status_response(real)
    else:
        assert fake == real


def test_the_states_of_versions_that_come_and_go() -> None:
    with Servers(1) as (server,), Client(server.address, model=MODEL) as client:
        server.serve(Version(1))
        server.serve(Version(1), loading=[2])
        assert [(one.version, one.state) for one in client.status()] == [(2, "LOADING"), (1, "AVAILABLE")]
        server.serve(Version(2))
        assert [(one.version, one.state) for one in client.status()] == [(2, "AVAILABLE"), (1, "END")]
