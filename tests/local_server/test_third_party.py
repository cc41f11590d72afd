"""ovmsclient, which others wrote for the same API, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.local_server.programs import running
from tests.local_server.test_both_servers import PROGRAMS
from trainer import run
from trainer.export.published import PublishedVersion

ASK = """
import json, sys
import numpy as np
from ovmsclient import ModelNotFoundError, make_grpc_client
client = make_grpc_client(sys.argv[1])
# Left out, its version is 0: the newest to OpenVINO's server, and a version like any other to TensorFlow's.
status = client.get_model_status("tiny", model_version=1)
metadata = client.get_model_metadata("tiny", model_version=1)
try:
    client.get_model_status("nope")
except ModelNotFoundError as error:
    missing = str(error)
answer = client.predict({"images": np.zeros((2, 32, 32, 3), np.float32)}, "tiny", model_version=1)
print(json.dumps({
    "status": status,
    "inputs": metadata["inputs"],
    "missing": missing,
    "probabilities": answer["probabilities"].tolist(),
}))
"""


@pytest.fixture(params=PROGRAMS)
def address(request: pytest.FixtureRequest, published: run.Published) -> Iterator[str]:
    base_path = published.path.parent
    flags = ["--model_name=tiny", f"--model_base_path={base_path}"]
    with running(request.param, base_path.parent, flags) as address:
        yield address


def test_ovmsclient_gets_status_metadata_and_predictions(
    address: str, published: run.Published, image_tree: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["status"] == {"1": {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    assert answer["inputs"] == {"images": {"shape": [-1, 32, 32, 3], "dtype": "DT_FLOAT"}}
    assert "nope" in answer["missing"]

    expected = PublishedVersion.open(published.path).answer_inputs(np.zeros((2, 32, 32, 3), np.float32))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
