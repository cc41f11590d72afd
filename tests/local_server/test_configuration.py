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


def test_batching_parameters_are_read_and_left_out_ones_are_tensorflow_servings(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(BATCHING)
    assert configuration.read_batching(file) == BatchingParameters(32, 0.0015, 7, 2, (1, 32))
    file.write_text("")
    assert configuration.read_batching(file) == BatchingParameters(
        max_batch_size=1000, max_enqueued_batches=10
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", r"must be a BatchingParameters as text: 1:\d+ : "),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            r"must rise and end with max_batch_size\. Received: \[4\] and 8",
        ),
        ("num_batch_threads { value: 0 }", "must be at least 1"),
    ],
)
def test_parameters_that_tensorflow_serving_would_refuse_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        configuration.read_batching(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {}", "must name models"),
        ('model_config_list { config { name: "m" } }', "each with name and base_path"),
        (
            'model_config_list { config { name: "m" base_path: "/a" } config { name: "m" base_path: "/b" } }',
            "must name each model once. Received: m, m",
        ),
        ("model_config_list {", "must be a ModelServerConfig as text"),
    ],
)
def test_a_model_config_that_names_no_models_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        configuration.read_models(file)


def test_the_metrics_path_is_read(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/metrics" }')
    assert configuration.read_metrics_path(file) == "/metrics"
    file.write_text("prometheus_config { enable: true }")
    assert configuration.read_metrics_path(file) == "/monitoring/prometheus/metrics"
    file.write_text("")
    assert configuration.read_metrics_path(file) is None
    with pytest.raises(ConfigurationError, match="No such file"):
        configuration.read_metrics_path(tmp_path / "none")
