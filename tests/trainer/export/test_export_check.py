import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from trainer.data.images import scan_split

from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters
from local_server.servable import Servable
from serving_client import preprocessing
from trainer import __main__ as cli
from trainer import run
from trainer.config import TrainConfig
from trainer.data import pipeline
from trainer.data.pipeline import ImageExamples
from trainer.errors import ExportMismatchError
from trainer.export import signatures
from trainer.export.export_check import MAX_DIFFERENCE, ExportCheck, Mismatch, sample_examples
from trainer.export.published import PublishedVersion
from trainer.export.warmup import warmup_batch_sizes
from trainer.model.backbones import find_backbone
from trainer.report.report import HTML_NAME

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")


def requests(version: Path) -> list[predict_pb2.PredictRequest]:
    raw = tf.data.TFRecordDataset(str(version / RECORDS)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(one) for one in raw]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def test_a_version_is_proved_on_validation_images_both_ways_and_the_report_says_so(
    published: run.Published,
) -> None:
    facts = json.loads((published.run_directory / "report.json").read_text())["facts"]
    assert facts["proved"].startswith("60 images, both ways; largest difference of a probability: ")
    largest = [float(one) for one in re.findall(r"\d\.\de[-+]\d\d", facts["proved"])]
    assert len(largest) == 2
    assert all(0 <= one <= MAX_DIFFERENCE for one in largest)


@pytest.mark.parametrize("signature", ["serving_default", "encoded_images"])
def test_a_version_that_answers_otherwise_one_way_is_not_published_and_the_images_are_named(
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    signature: str,
) -> None:
    """As if training and the graph, or training and the client, saw other pictures."""
    if signature == "encoded_images":
        decode = pipeline.decode_or_flag

        def other(*args: Any) -> tuple[tf.Tensor, tf.Tensor]:
            levels, decodable = decode(*args)
            return levels[::-1], decodable

        monkeypatch.setattr(pipeline, "decode_or_mark", other)
    else:
        monkeypatch.setattr("trainer.proof.preprocessing.preprocess", _upside_down(preprocessing.preprocess))
    with pytest.raises(ExportMismatchError, match=f"^Not published: .* through {signature}, by ") as caught:
        run.train(TrainConfig(model_dir=tmp_path, **{**settings, "epochs": 2}))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "tiny").glob("[0-9]*"))
    (report,) = (tmp_path / "tiny").glob(f".runs/*/{HTML_NAME}")
    warnings = json.loads((report.parent / "report.json").read_text())["warnings"]
    assert any(one.startswith("Not published: ") and signature in one for one in warnings)
    assert "Not published: " in report.read_text()


def _upside_down(preprocess: Any) -> Any:
    return lambda image, spec: np.ascontiguousarray(preprocess(image, spec)[::-1])


def test_weights_that_are_lost_on_the_way_to_the_disk_are_found(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = signatures.save_signatures

    def forgetful(directory: Path, network: keras.Model, *args: Any) -> None:
        kept = network.get_weights()
        network.set_weights([*kept[:-1], kept[-1] + np.eye(len(kept[-1]))[0].astype(np.float32) / 100])
        save(directory, network, *args)
        network.set_weights(kept)

    monkeypatch.setattr(signatures, "save", forgetful)
    with pytest.raises(ExportMismatchError):
        run.train(TrainConfig(model_dir=tmp_path, **{**settings, "epochs": 1}))


def test_the_sample_is_spread_over_all_classes(image_tree: Path) -> None:
    split = scan_split(image_tree / "validation")
    examples = ImageExamples(split, find_backbone("vgg16"), 32)
    assert len(sample_examples(examples).images) == 60
    few = ImageExamples(split.subset(range(0, 60, 30)), find_backbone("vgg16"), 32)
    assert sample_examples(few).images.paths == few.images.paths


def test_an_answer_that_is_no_number_is_a_difference() -> None:
    with pytest.raises(ExportMismatchError):
        ExportCheck(
            1,
            {"serving_default": float("nan")},
            [Mismatch("a.jpg", "serving_default", float("nan"), "cat", "cat")],
        ).require()


def test_the_warm_up_file_asks_all_three_signatures_at_every_batch_size(published: run.Published) -> None:
    asked: dict[str, list[int]] = {}
    for request in requests(published.path):
        (tensor,) = request.inputs.values()
        assert request.model_spec.name == "tiny"
        asked.setdefault(request.model_spec.signature_name, []).append(tensor.tensor_shape.dim[0].size)
    assert set(asked) == {"serving_default", "encoded_images", "describe"}
    for sizes in asked.values():
        assert set(sizes) == {1, 2, 4, 8, 16, 32}


def test_the_warm_up_file_carries_real_pictures_and_is_small(
    published: run.Published, image_tree: Path
) -> None:
    pictures = {path.read_bytes() for path in image_tree.glob("validation/*/*")}
    sent = [one for request in requests(published.path) for one in request.inputs["encoded"].string_val]
    assert sent and set(sent) <= pictures
    assert len(set(sent)) >= 8
    assert (published.path / RECORDS).stat().st_size < 500_000


@pytest.mark.parametrize("batching", [False, True])
def test_the_warm_up_file_replays(published: run.Published, batching: bool) -> None:
    sizes = warmup_batch_sizes(32)
    parameters = BatchingParameters(max_batch_size=32, allowed_batch_sizes=tuple(sizes))
    scheduler = BatchScheduler(parameters) if batching else None
    servable = Servable("tiny", 1, published.path, scheduler)
    assert servable.warmup_requests == len(requests(published.path))
    for request in requests(published.path):
        response = servable.predict(request)
        (tensor,) = request.inputs.values()
        for output in response.outputs.values():
            array = tf.make_ndarray(output)
            assert len(array) == tensor.tensor_shape.dim[0].size
            assert array.dtype == object or np.isfinite(array).all()


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (24, [1, 2, 4, 8, 16, 24])])
def test_batch_sizes_double_up_to_the_largest(largest: int, sizes: list[int]) -> None:
    assert warmup_batch_sizes(largest) == sizes


def test_a_pretrained_network_is_proved_and_warmed_too(tmp_path: Path) -> None:
    flags = ["--backbone", "mobilenetv3small", "--weights", "none", "--model-dir", str(tmp_path)]
    assert cli.main(["export-pretrained", *flags]) == 0
    assert PublishedVersion.open(tmp_path / "mobilenetv3small").number == 1
    assert len(requests(tmp_path / "mobilenetv3small" / "1")) > 3
