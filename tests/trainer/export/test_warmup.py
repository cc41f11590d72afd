import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters
from local_server.servable import Servable
from tests.trainer.export.conftest import LARGEST_BATCH, Exported
from trainer.export.warmup import WARMUP_FILE_NAME, warmup_batch_sizes


@pytest.fixture(scope="module")
def requests(exported: Exported) -> list[predict_pb2.PredictRequest]:
    """The requests in the version's warm-up file."""
    file = exported.path / "assets.extra" / WARMUP_FILE_NAME
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def test_all_three_signatures_are_called_at_every_batch_size(
    requests: list[predict_pb2.PredictRequest],
) -> None:
    sizes: dict[str, set[int]] = {}
    for request in requests:
        (tensor,) = request.inputs.values()
        assert request.model_spec.name == "tiny"
        sizes.setdefault(request.model_spec.signature_name, set()).add(tensor.tensor_shape.dim[0].size)
    assert set(sizes) == {"serving_default", "encoded_images", "describe"}
    assert all(of_signature == {1, 2, 4, 8, 16, LARGEST_BATCH} for of_signature in sizes.values())


def test_the_file_holds_eight_real_images_and_is_small(
    requests: list[predict_pb2.PredictRequest], exported: Exported
) -> None:
    files = {path.read_bytes() for path in exported.examples.images.paths}
    sent = [
        image
        for request in requests
        if "encoded" in request.inputs
        for image in request.inputs["encoded"].string_val
    ]
    assert sent and set(sent) <= files
    assert len(set(sent)) >= 8
    assert (exported.path / "assets.extra" / WARMUP_FILE_NAME).stat().st_size < 500_000


def test_a_batching_server_loads_the_version_and_answers_each_request(
    requests: list[predict_pb2.PredictRequest], exported: Exported
) -> None:
    """Loading replays the file. Without batching, every server of the other tests does that too."""
    parameters = BatchingParameters(
        max_batch_size=LARGEST_BATCH, allowed_batch_sizes=tuple(warmup_batch_sizes(LARGEST_BATCH))
    )
    servable = Servable("tiny", 1, exported.path, BatchScheduler(parameters))
    assert servable.warmup_requests == len(requests)
    for request in requests:
        response = servable.predict(request)
        (tensor,) = request.inputs.values()
        for output in response.outputs.values():
            array = tf.make_ndarray(output)
            assert len(array) == tensor.tensor_shape.dim[0].size
            assert array.dtype == object or np.isfinite(array).all()


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (24, [1, 2, 4, 8, 16, 24])])
def test_batch_sizes_double_up_to_the_largest(largest: int, sizes: list[int]) -> None:
    assert warmup_batch_sizes(largest) == sizes
