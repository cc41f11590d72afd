"""The gateway keeps to its OpenAPI description."""

import subprocess
import sys
from pathlib import Path


def test_schemathesis_finds_no_deviation(gateway: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{gateway}/openapi.json"),
            *("--max-examples", "300", "--seed", "1", "--generation-deterministic", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
