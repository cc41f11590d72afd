from pathlib import Path

import pytest

from local_server import configuration
from local_server.configuration import BatchingParameters, ConfigurationError

BATCHING = """
max_batch_size { value: 32 }
batch_timeout_micros { value: 1500 }
max_enqueued_batches { value: 7 }
num_batch_threads { value: 2 }
allowed_batch_sizes: 1
allowed_batch_sizes: 32
"""


def test_batching_parameters_that_a_file_leaves_out_have_tensorflow_servings_defaults(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(BATCHING)
    assert configuration.read_batching(file) == BatchingParameters(32, 0.0015, 7, 2, (1, 32))
    file.write_text("")
    assert configuration.read_batching(file) == BatchingParameters(
        max_batch_size=1000, max_enqueued_batches=10
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nonsense", ["BatchingParameters", "1:1"]),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            ["allowed_batch_sizes=[4]", "max_batch_size=8"],
        ),
        (
            "max_batch_size { value: 4 } "
            "allowed_batch_sizes: 2 allowed_batch_sizes: 1 allowed_batch_sizes: 4",
            ["allowed_batch_sizes=[2, 1, 4]"],
        ),
        ("num_batch_threads { value: 0 }", ["num_batch_threads", "0"]),
    ],
)
def test_parameters_that_tensorflow_serving_would_reject_are_rejected(
    tmp_path: Path, text: str, named: list[str]
) -> None:
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        configuration.read_batching(file)
    assert all(part in str(caught.value) for part in [str(file), *named])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model_config_list {}", "model"),
        ('model_config_list { config { name: "m" } }', "base_path"),
        (
            'model_config_list { config { name: "m" base_path: "/a" } config { name: "m" base_path: "/b" } }',
            "m, m",
        ),
        ("model_config_list {", "ModelServerConfig"),
    ],
    ids=["no models", "no base path", "a name twice", "not a message"],
)
def test_a_model_config_without_usable_models_is_rejected(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        configuration.read_models(file)
    assert str(file) in str(caught.value)
    assert named in str(caught.value).removeprefix(str(file))


def test_the_metrics_path_is_read(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/metrics" }')
    assert configuration.read_metrics_path(file) == "/metrics"
    file.write_text("prometheus_config { enable: true }")
    assert configuration.read_metrics_path(file) == "/monitoring/prometheus/metrics"
    file.write_text("")
    assert configuration.read_metrics_path(file) is None
    with pytest.raises(ConfigurationError, match=str(tmp_path / "none")):
        configuration.read_metrics_path(tmp_path / "none")
