"""What a fake model server answers: TensorFlow Serving's messages, without TensorFlow and without I/O.

Source of the messages: the real server's, which tests/local_server/test_both_servers.py compares with those
of `local_server`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from PIL import Image

from serving_client import resizing, tensors, wire
from tests.model_servers.pictures import distances
from tests.model_servers.versions import Model, Script, Version

# The inputs of each signature.
_INPUTS = {
    "serving_default": ("images", wire.DataType.DT_FLOAT),
    "encoded_images": ("encoded", wire.DataType.DT_STRING),
    "describe": ("query", wire.DataType.DT_STRING),
}
_TYPE_NAMES = {
    wire.DataType.DT_FLOAT: "float",
    wire.DataType.DT_DOUBLE: "double",
    wire.DataType.DT_STRING: "string",
    wire.DataType.DT_UINT8: "uint8",
    wire.DataType.DT_INT32: "int32",
}
_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Refusal(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def predict(script: Script, encoded_request: bytes) -> bytes:
    """Answer Predict.

    Raises:
      Refusal: as TensorFlow Serving refuses the request.
    """
    request = wire.PredictRequest.FromString(encoded_request)
    version = _find(script, request.model_spec)
    signature = request.model_spec.signature_name or "serving_default"
    if signature not in _INPUTS:
        raise _failed_precondition(f'Serving signature key "{signature}" not found.')
    value = _input(request, *_INPUTS[signature])
    if script.max_rows and len(value) > script.max_rows:
        raise _invalid(
            f"Task size {len(value)} is larger than maximum input batch size {script.max_rows}"
        )
    response = wire.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version.number
    response.model_spec.signature_name = signature
    if signature == "describe":
        _set(response, "card", [version.card().encode()] * len(value))
        return response.SerializeToString()
    if signature == "serving_default":
        _check_shape(value, version)
        levels, decoded = _levels(value, version.mode), np.ones(len(value), np.bool_)
    else:
        levels, decoded = _decode(value, version.size_px)
        if version.identity:
            _set(response, "decoded", decoded)
    logits = -distances(levels, version.labels) / 1_000
    logits[~decoded] = np.nan
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    _set(response, "logits", logits)
    _set(response, "probabilities", exponents / exponents.sum(axis=1, keepdims=True))
    if version.identity:
        claimed = version.claimed_id or version.model_id
        _set(response, "model_id", [claimed.encode()] * len(value))
    return response.SerializeToString()


def status(script: Script, encoded_request: bytes) -> bytes:
    """Answer GetModelStatus.

    Raises:
      Refusal: as TensorFlow Serving refuses the request.
    """
    spec = wire.GetModelStatusRequest.FromString(encoded_request).model_spec
    model = script.models.get(spec.name, Model({}, {}))
    number = _number(model, spec)
    if number is not None and number not in model.versions:
        raise _not_found(f"Could not find version {number} of model {spec.name}")
    if not model.versions:
        raise _not_found(f"Could not find any versions of model {spec.name}")
    response = wire.GetModelStatusResponse()
    for version in [number] if number is not None else sorted(model.versions, reverse=True):
        response.model_version_status.add(version=version, state=wire.ModelVersionStatus.AVAILABLE)
    return response.SerializeToString()


def _find(script: Script, spec: wire.ModelSpec) -> Version:
    if not spec.name:
        raise _invalid("ModelSpec has no name specified.")
    model = script.models.get(spec.name, Model({}, {}))
    number = _number(model, spec)
    wanted = max(model.versions, default=0) if number is None else number
    if wanted not in model.versions:
        request = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise _not_found(f"Servable not found for request: {request}")
    return model.versions[wanted]


def _number(model: Model, spec: wire.ModelSpec) -> int | None:
    if spec.version_label:
        if spec.version_label not in model.labels:
            raise _invalid(f"Unrecognized servable version label: {spec.version_label}")
        return model.labels[spec.version_label]
    return spec.version.value if spec.HasField("version") else None


def _input(request: wire.PredictRequest, name: str, data_type: wire.DataType) -> npt.NDArray[Any]:
    sent: Mapping[str, wire.TensorProto] = request.inputs
    if len(sent) != 1:
        raise _invalid(
            f"input size does not match signature: {len(sent)}!=1 len({_braced(sent)}) != len({{{name}}}). "
            f"Sent extra: {_braced(set(sent) - {name})}. "
            f"Missing but required: {_braced({name} - set(sent))}."
        )
    if name not in sent:
        raise _invalid(
            f"Signature input alias: {name}(feed name: {name}:0) not found in request and no default value "
            f"provided. Inputs expected to be in the request {_braced(sent)}, or default input alias set: "
        )
    if sent[name].dtype != data_type:
        received = _TYPE_NAMES.get(sent[name].dtype, str(sent[name].dtype))
        raise _invalid(f"Expects arg[0] to be {_TYPE_NAMES[data_type]} but {received} is provided")
    return tensors.decode_tensor(name, sent[name])


def _check_shape(images: npt.NDArray[Any], version: Version) -> None:
    """The message is that of the operation `tf.ensure_shape` in the exported graph."""
    if images.shape[1:] != (version.size_px, version.size_px, 3):
        received = ",".join(map(str, images.shape))
        raise _invalid(
            f"Shape of tensor images [{received}] is not compatible with expected shape "
            f"[?,{version.size_px},{version.size_px},3].\n\t [[{{{{node EnsureShape}}}}]]"
        )


def _levels(images: npt.NDArray[np.float32], mode: str) -> npt.NDArray[np.float32]:
    """Undo the preprocessing of the version's own mode, whatever mode the client used."""
    levels = {
        "tf": lambda: (images + 1) * 127.5,
        "caffe": lambda: (images + _MEAN_BGR)[..., ::-1],
        "torch": lambda: (images * _STD + _MEAN) * 255,
        "none": lambda: images,
    }
    return np.asarray(levels[mode](), np.float32)


def _decode(
    encoded: npt.NDArray[Any], size_px: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
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
        raise _invalid(
            "Unknown image file format. One of JPEG, PNG, GIF, BMP required.\n\t [[{{node DecodeImage}}]]"
        )
    return levels, decoded


def _set(response: wire.PredictResponse, name: str, value: npt.NDArray[Any] | list[bytes]) -> None:
    """Fill an output as TensorFlow Serving does by default: in typed fields."""
    tensor = response.outputs[name]
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


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _invalid(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def _not_found(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, message)


def _failed_precondition(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, message)
