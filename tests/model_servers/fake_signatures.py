"""The signatures of a fake version, as GetModelMetadata tells them and Predict checks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import numpy.typing as npt

from serving_client import tensors, wire
from tests.model_servers.versions import ForeignVersion, Version

# TensorFlow's names of dtypes, by numpy's, for messages.
_TYPES = {
    "float32": (wire.DataType.DT_FLOAT, "float"),
    "float64": (wire.DataType.DT_DOUBLE, "double"),
    "uint8": (wire.DataType.DT_UINT8, "uint8"),
    "int32": (wire.DataType.DT_INT32, "int32"),
    "int64": (wire.DataType.DT_INT64, "int64"),
    "bool": (wire.DataType.DT_BOOL, "bool"),
    "string": (wire.DataType.DT_STRING, "string"),
}
_NAMES = dict(_TYPES.values())

# Dtype and shape of one row, by name.
_Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


class Refusal(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> Refusal:
    """Return the refusal of a request that does not fit."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one signature."""

    key: str
    inputs: _Tensors
    outputs: _Tensors


def signatures(version: Version | ForeignVersion) -> dict[str, Signature]:
    """Return the signatures of a version by name."""
    if isinstance(version, ForeignVersion):
        return {"serving_default": Signature("serving_default", version.inputs, {"sums": ("float32", ())})}
    per_label: _Tensors = dict.fromkeys(("logits", "probabilities"), ("float32", (len(version.labels),)))
    identity: _Tensors = {"model_id": ("string", ())} if version.identity else {}
    decoded: _Tensors = {"decoded": ("bool", ())} if version.identity else {}
    images = {"images": ("float32", (version.size_px, version.size_px, 3))}
    described = (
        Signature("serving_default", images, {**per_label, **identity}),
        Signature("encoded_images", {"encoded": ("string", ())}, {**per_label, **identity, **decoded}),
        Signature("describe", {"query": ("string", ())}, {"card": ("string", ())}),
    )
    return {signature.key: signature for signature in described}


def signature_map(version: Version | ForeignVersion) -> wire.SignatureDefMap:
    """Return the signatures as GetModelMetadata does."""
    answer = wire.SignatureDefMap()
    for key, signature in signatures(version).items():
        for described, infos in (
            (signature.inputs, answer.signature_def[key].inputs),
            (signature.outputs, answer.signature_def[key].outputs),
        ):
            for name, (dtype, shape) in described.items():
                infos[name].dtype = _TYPES[dtype][0]
                for size in (-1, *shape):
                    infos[name].tensor_shape.dim.add(size=size)
    return answer


def read_inputs(signature: Signature, sent: Mapping[str, wire.TensorProto]) -> dict[str, npt.NDArray[Any]]:
    """Decode the inputs of a request. Their shapes are not compared, as in TensorFlow Serving.

    Raises:
      Refusal: names or dtypes do not match the signature.
    """
    expected = signature.inputs
    if len(sent) != len(expected):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_braced(sent)}) != "
            f"len({_braced(expected)}). Sent extra: {_braced(set(sent) - set(expected))}. "
            f"Missing but required: {_braced(set(expected) - set(sent))}."
        )
    for name in sorted(set(expected) - set(sent)):
        raise invalid_argument(
            f"Signature input alias: {name}(feed name: {signature.key}_{name}:0) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_braced(sent)}, "
            "or default input alias set: "
        )
    for index, (name, (dtype, _)) in enumerate(sorted(expected.items())):
        data_type, type_name = _TYPES[dtype]
        if sent[name].dtype != data_type:
            received = _NAMES.get(sent[name].dtype, str(sent[name].dtype))
            raise invalid_argument(f"Expects arg[{index}] to be {type_name} but {received} is provided")
    return {name: tensors.decode_tensor(name, tensor) for name, tensor in sent.items()}


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
