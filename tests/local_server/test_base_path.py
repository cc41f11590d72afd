from pathlib import Path

import pytest
from tensorflow_serving.apis import model_pb2

from local_server import configuration
from local_server.base_path import BasePath, version_number
from local_server.models import Models
from tests.conftest import tiny_saved_model
from tests.local_server.tiny_versions import predict_request


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("00000123", 123),
        ("0", 0),
        ("+5", 5),
        ("-5", -5),
        (" 5", 5),
        ("5\t\n", 5),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("9" * 255, None),
        ("٣", None),
        ("²", None),
        ("\u00a05", None),
        ("1.0", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("--5", None),
        ("- 5", None),
        ("5 6", None),
        ("", None),
        ("+", None),
        (".staging-5", None),
        ("v1", None),
    ],
    ids=repr,
)
def test_names_are_read_as_tensorflow_serving_reads_them(name: str, version: int | None) -> None:
    assert version_number(name) == version


def test_of_two_folders_for_one_version_the_last_by_name_is_used_and_the_other_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("001", "1", "01", "2"):
        (tmp_path / name).mkdir()
    base_path = BasePath(tmp_path)
    for _ in range(2):
        assert base_path.versions() == {1: tmp_path / "1", 2: tmp_path / "2"}
    (warning,) = caplog.records
    assert all(name in warning.getMessage() for name in ("'001'", "'01'", "'1'"))


def test_a_version_with_leading_zeros_is_served_under_its_number(tmp_path: Path) -> None:
    tiny_saved_model(tmp_path / "00000123", 0.5)
    models = Models()
    models.configure(configuration.single_model("m", tmp_path))
    models.poll()
    servable = models.find(model_pb2.ModelSpec(name="m"))
    assert servable.predict(predict_request()).model_spec.version.value == 123
    assert list(models.states(model_pb2.ModelSpec(name="m"))) == [123]
