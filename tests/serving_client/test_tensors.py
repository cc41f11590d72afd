import numpy as np
import pytest

from serving_client import wire
from serving_client.tensors import encode_input

# Protocol Buffers write a length in 7-bit groups. So 1 to 4 bytes of length, and both sides of each border.
LENGTHS = sorted({max(0, 2**bits + more) for bits in (0, 7, 14, 21) for more in range(-70, 2)})


def test_an_encoded_array_is_the_message_that_protobuf_writes() -> None:
    for length in LENGTHS:
        levels = np.arange(length).astype(np.uint8)
        plain = wire.PredictRequest()
        plain.inputs["x"].dtype = wire.DataType.DT_UINT8
        plain.inputs["x"].tensor_shape.dim.add(size=length)
        plain.inputs["x"].tensor_content = levels.tobytes()
        assert wire.PredictRequest.FromString(b"".join(encode_input("x", levels))) == plain, length


@pytest.mark.parametrize("count", [0, 1, 200])
def test_encoded_strings_are_the_message_that_protobuf_writes(count: int) -> None:
    files = [bytes(number) for number in range(count)]
    plain = wire.PredictRequest()
    plain.inputs["x"].dtype = wire.DataType.DT_STRING
    plain.inputs["x"].tensor_shape.dim.add(size=count)
    plain.inputs["x"].string_val.extend(files)
    assert wire.PredictRequest.FromString(b"".join(encode_input("x", files))) == plain


def test_an_array_that_is_not_contiguous_keeps_its_values() -> None:
    levels = np.arange(12, dtype=np.float32).reshape(3, 4).T
    (tensor,) = wire.PredictRequest.FromString(b"".join(encode_input("x", levels))).inputs.values()
    assert np.frombuffer(tensor.tensor_content, np.float32).reshape(4, 3).tolist() == levels.tolist()
