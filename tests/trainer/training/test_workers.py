import json

import pytest

from trainer.errors import ConfigError
from trainer.training.workers import WorkerCluster, find_workers

JOB = {"JOB_COMPLETION_INDEX": "1", "WORKERS": "3", "WORKER_SERVICE": "trainers", "HOSTNAME": "train-run-7-1"}


def test_an_indexed_jobs_environment_names_its_pods() -> None:
    assert find_workers(JOB) == WorkerCluster(
        ("train-run-7-0.trainers:2222", "train-run-7-1.trainers:2222", "train-run-7-2.trainers:2222"), 1
    )
    assert find_workers({**JOB, "WORKER_PORT": "4000"}) == WorkerCluster(
        ("train-run-7-0.trainers:4000", "train-run-7-1.trainers:4000", "train-run-7-2.trainers:4000"), 1
    )


def test_tf_config_is_taken_as_it_is() -> None:
    text = json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}})
    assert find_workers({"TF_CONFIG": text, **JOB}) == WorkerCluster(("a:1", "b:2"), 1)


def test_without_a_number_of_workers_there_is_one_process() -> None:
    """An Indexed Job whose pods have nothing to do with each other."""
    assert find_workers({}) is None
    assert find_workers({"JOB_COMPLETION_INDEX": "4", "HOSTNAME": "sweep-4"}) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        pytest.param({"WORKERS": "2"}, "no JOB_COMPLETION_INDEX, WORKER_SERVICE, HOSTNAME", id="incomplete"),
        pytest.param({**JOB, "WORKERS": "two"}, "WORKERS must be a whole number. Received: 'two'", id="two"),
        pytest.param({**JOB, "WORKERS": "1"}, "JOB_COMPLETION_INDEX below WORKERS", id="index too high"),
        pytest.param({**JOB, "HOSTNAME": "laptop"}, "HOSTNAME must be JOB-INDEX.*laptop", id="other host"),
        pytest.param({"TF_CONFIG": "{"}, "TF_CONFIG must be JSON such as", id="no JSON"),
        pytest.param({"TF_CONFIG": "{}"}, "TF_CONFIG must be JSON such as", id="nothing in it"),
        pytest.param(
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'},
            "a task index below their number",
            id="no such worker",
        ),
        pytest.param(
            {
                "TF_CONFIG": '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
                '"task": {"type": "worker", "index": 0}}'
            },
            "must hold workers only",
            id="parameter server",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_workers(environment)
