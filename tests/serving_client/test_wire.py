"""The client's messages match those of TensorFlow and TensorFlow Serving in every field, number and type."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    status_pb2,
)

from serving_client import codec, wire

PAIRS = [
    (wire.TensorShapeProto, tensor_shape_pb2.TensorShapeProto),
    (wire.TensorShapeProto.Dim, tensor_shape_pb2.TensorShapeProto.Dim),
    (wire.TensorProto, tensor_pb2.TensorProto),
    (wire.ModelSpec, model_pb2.ModelSpec),
    (wire.PredictRequest, predict_pb2.PredictRequest),
    (wire.PredictResponse, predict_pb2.PredictResponse),
    (wire.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
    (wire.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
    (wire.ModelVersionStatus, get_model_status_pb2.ModelVersionStatus),
    (wire.StatusProto, status_pb2.StatusProto),
    (wire.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataRequest),
    (wire.GetModelMetadataResponse, get_model_metadata_pb2.GetModelMetadataResponse),
    (wire.SignatureDefMap, get_model_metadata_pb2.SignatureDefMap),
    (wire.SignatureDef, meta_graph_pb2.SignatureDef),
    (wire.TensorInfo, meta_graph_pb2.TensorInfo),
]


def fields(message: type[Message]) -> dict[str, tuple[int, int, bool]]:
    found = message.DESCRIPTOR.fields
    return {field.name: (field.number, field.type, field.is_repeated) for field in found}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[ours.__name__ for ours, _ in PAIRS])
def test_each_field_has_the_number_and_type_of_the_original(
    ours: type[Message], theirs: type[Message]
) -> None:
    mine, others = fields(ours), fields(theirs)
    assert mine
    assert mine.items() <= others.items()


def test_each_dtype_has_the_number_of_the_original() -> None:
    for name, number in wire.DataType.items():
        assert types_pb2.DataType.Value(name) == number


def test_each_state_has_the_number_of_the_original() -> None:
    assert dict(wire.ModelVersionStatus.State.items()) == dict(
        get_model_status_pb2.ModelVersionStatus.State.items()
    )


ARRAYS = [
    np.arange(6).reshape(2, 3).astype(dtype)
    for dtype in (np.float32, np.float64, np.int32, np.uint8, np.int64, np.bool_)
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_tensorflow_reads_encoded_arrays(array: np.ndarray) -> None:
    ours = codec.encode_predict_request("m", "s", {"x": array}, version=3)
    theirs = predict_pb2.PredictRequest.FromString(ours)
    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("m", 3)
    assert theirs.model_spec.signature_name == "s"
    read = tf.make_ndarray(theirs.inputs["x"])
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_tensorflow_reads_encoded_strings() -> None:
    ours = codec.encode_predict_request("m", "s", {"x": [b"\xff\x00", b""]})
    read = tf.make_ndarray(predict_pb2.PredictRequest.FromString(ours).inputs["x"])
    assert read.tolist() == [b"\xff\x00", b""]


def response(**tensors: tensor_pb2.TensorProto) -> wire.PredictResponse:
    return wire.PredictResponse.FromString(predict_pb2.PredictResponse(outputs=tensors).SerializeToString())


def typed(array: np.ndarray, field: str) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, field).extend(array.ravel().tolist())
    return tensor


TYPED_FIELDS = ("float_val", "double_val", "int_val", "int_val", "int64_val", "bool_val")


@pytest.mark.parametrize(("array", "field"), list(zip(ARRAYS, TYPED_FIELDS, strict=True)))
def test_decodes_both_forms_of_a_tensor(array: np.ndarray, field: str) -> None:
    outputs = codec.decode_outputs(response(content=tf.make_tensor_proto(array), typed=typed(array, field)))
    for value in outputs.values():
        assert value.dtype == array.dtype
        np.testing.assert_array_equal(value, array)


def test_decodes_strings_and_repeated_values_that_are_sent_once() -> None:
    once = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[7.0])
    for size in (2, 2):
        once.tensor_shape.dim.add(size=size)
    outputs = codec.decode_outputs(response(text=tf.make_tensor_proto([b"a", b"b"]), once=once))
    assert outputs["text"].tolist() == [b"a", b"b"]
    np.testing.assert_array_equal(outputs["once"], tf.make_ndarray(once))
