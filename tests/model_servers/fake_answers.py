"""What a fake model server answers: TensorFlow Serving's messages, without TensorFlow and without I/O.

Source of the messages: the real server's, which tests/local_server/test_both_servers.py compares with those
of `local_server`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from PIL import Image

from serving_client import resizing, wire
from tests.model_servers.fake_signatures import (
    Refusal,
    invalid_argument,
    read_inputs,
    signature_map,
    signatures,
)
from tests.model_servers.pictures import distances
from tests.model_servers.versions import ForeignVersion, Model, Script, Version

_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def predict(script: Script, encoded_request: bytes) -> bytes:
    """Answer Predict.

    Raises:
      Refusal: as TensorFlow Serving refuses the request.
    """
    request = wire.PredictRequest.FromString(encoded_request)
    version = _find(script, request.model_spec)
    name = request.model_spec.signature_name or "serving_default"
    signature = signatures(version).get(name)
    if not signature:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    inputs = read_inputs(signature, request.inputs)
    rows = max(len(value) for value in inputs.values())
    if script.max_rows and rows > script.max_rows:
        raise invalid_argument(f"Task size {rows} is larger than maximum input batch size {script.max_rows}")
    response = wire.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version.number
    response.model_spec.signature_name = name
    for output, value in _run(version, name, inputs).items():
        _set(response.outputs[output], value)
    return response.SerializeToString()


def metadata(script: Script, encoded_request: bytes) -> bytes:
    """Answer GetModelMetadata.

    Raises:
      Refusal: as TensorFlow Serving refuses the request.
    """
    request = wire.GetModelMetadataRequest.FromString(encoded_request)
    if list(request.metadata_field) != ["signature_def"]:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    version = _find(script, request.model_spec)
    response = wire.GetModelMetadataResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version.number
    described = response.metadata["signature_def"]
    described.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    described.value = signature_map(version).SerializeToString()
    return response.SerializeToString()


def status(script: Script, encoded_request: bytes) -> bytes:
    """Answer GetModelStatus.

    Raises:
      Refusal: as TensorFlow Serving refuses the request.
    """
    spec = wire.GetModelStatusRequest.FromString(encoded_request).model_spec
    model = script.models.get(spec.name, Model())
    states = {**dict.fromkeys(model.versions, "AVAILABLE"), **model.others}
    number = _number(model, spec)
    if number is not None and number not in states:
        raise _not_found(f"Could not find version {number} of model {spec.name}")
    if not states:
        raise _not_found(f"Could not find any versions of model {spec.name}")
    response = wire.GetModelStatusResponse()
    for version in [number] if number is not None else sorted(states, reverse=True):
        state = wire.ModelVersionStatus.State.Value(states[version])
        response.model_version_status.add(version=version, state=state)
    return response.SerializeToString()


def _find(script: Script, spec: wire.ModelSpec) -> Version | ForeignVersion:
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    model = script.models.get(spec.name, Model())
    number = _number(model, spec)
    wanted = max(model.versions, default=0) if number is None else number
    if wanted not in model.versions:
        request = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise _not_found(f"Servable not found for request: {request}")
    return model.versions[wanted]


def _number(model: Model, spec: wire.ModelSpec) -> int | None:
    if spec.version_label:
        if spec.version_label not in model.labels:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return model.labels[spec.version_label]
    return spec.version.value if spec.HasField("version") else None


def _run(
    version: Version | ForeignVersion, signature: str, inputs: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any] | list[bytes]]:
    """Return the outputs of a signature."""
    if isinstance(version, ForeignVersion):
        sums = [value.reshape(len(value), -1).sum(axis=1, dtype=np.float32) for value in inputs.values()]
        return {"sums": np.stack(sums).sum(axis=0)}
    (value,) = inputs.values()
    if signature == "describe":
        return {"card": [version.card().encode()] * len(value)}
    outputs: dict[str, npt.NDArray[Any] | list[bytes]] = {}
    if version.identity:
        outputs["model_id"] = [(version.claimed_id or version.model_id).encode()] * len(value)
    if signature == "serving_default":
        _check_shape(value, version)
        levels, decoded = _levels(value, version.mode), np.ones(len(value), np.bool_)
    else:
        levels, decoded = _decode(value, version.size_px)
        outputs.update({"decoded": decoded} if version.identity else {})
    logits = -distances(levels, version.labels) / 1_000
    logits[~decoded] = np.nan
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {**outputs, "logits": logits, "probabilities": exponents / exponents.sum(axis=1, keepdims=True)}


def _check_shape(images: npt.NDArray[Any], version: Version) -> None:
    """The message is that of the operation `tf.ensure_shape` in the exported graph."""
    if images.shape[1:] != (version.size_px, version.size_px, 3):
        received = ",".join(map(str, images.shape))
        raise invalid_argument(
            f"Shape of tensor _arg_serving_default_images_0_0 [{received}] is not compatible with expected "
            f"shape [?,{version.size_px},{version.size_px},3].\n\t [[{{{{node EnsureShape}}}}]]"
        )


def _levels(images: npt.NDArray[np.float32], mode: str) -> npt.NDArray[np.float32]:
    """Undo the preprocessing of the version's own mode, whatever mode the client used."""
    if mode == "tf":
        return (images + np.float32(1)) * np.float32(127.5)
    if mode == "caffe":
        return (images + _MEAN_BGR)[..., ::-1]
    if mode == "torch":
        return (images * _STD + _MEAN) * np.float32(255)
    return images


def _decode(encoded: npt.NDArray[Any], size_px: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Decode each image. One that cannot be decoded fails the call only if no other can."""
    levels = np.zeros((len(encoded), size_px, size_px, 3), np.float32)
    decoded = np.ones(len(encoded), np.bool_)
    for row, data in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(data)) as image:
                levels[row] = resizing.resize(np.asarray(image.convert("RGB")), size_px, size_px)
        except (OSError, ValueError):
            decoded[row] = False
    if not decoded.any():
        raise invalid_argument(
            "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required.\n\t "
            "[[{{node DecodeImage}}]]"
        )
    return levels, decoded


def _set(tensor: wire.TensorProto, value: npt.NDArray[Any] | list[bytes]) -> None:
    """Fill an output as TensorFlow Serving does by default: in typed fields."""
    for size in np.shape(value):
        tensor.tensor_shape.dim.add(size=size)
    if isinstance(value, list):
        tensor.dtype = wire.DataType.DT_STRING
        tensor.string_val.extend(value)
    elif value.dtype == np.bool_:
        tensor.dtype = wire.DataType.DT_BOOL
        tensor.bool_val.extend(value.tolist())
    else:
        tensor.dtype = wire.DataType.DT_FLOAT
        tensor.float_val.extend(value.ravel().tolist())


def _not_found(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, message)
