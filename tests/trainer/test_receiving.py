"""`python -m trainer.receiving`, as older clients call it in a pod: by this name, with these arguments."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.trainer.missing_packages import HEAVY, environment_without
from trainer import receiving
from trainer.errors import DataError

FILES = {"train/a/1.jpg": b"one", "train/b/é ü.jpg": b"two" * 100_000, "validation/a/3.jpg": b""}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_of(files: dict[str, bytes], checksums: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            checksum = sha256(content) if checksums is None else checksums.get(name)
            if checksum:
                member.pax_headers = {"IMAGECLASSIFIER.sha256": checksum}
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def run(home: Path, *arguments: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "trainer.receiving", *arguments],
        env=environment_without(home, (*HEAVY, "numpy", "PIL", "kubernetes", "rich", "yaml")),
        input=content,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    directory = tmp_path / "claim"
    directory.mkdir()
    return directory


def files_in(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def test_known_prints_the_checksum_of_each_file_that_is_not_hidden(tmp_path: Path, claim: Path) -> None:
    for name in (*FILES, ".hidden/1.jpg", "train/.DS_Store"):
        (claim / name).parent.mkdir(parents=True, exist_ok=True)
        (claim / name).write_bytes(FILES.get(name, b"hidden"))
    done = run(tmp_path, "known", str(claim))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: sha256(content) for name, content in FILES.items()}


def test_take_writes_the_files_and_prints_how_many(tmp_path: Path, claim: Path) -> None:
    content = tar_of(FILES)
    done = run(tmp_path, "take", str(claim), str(len(content)), content=content)
    assert (done.returncode, done.stdout) == (0, b"3\n"), done.stderr
    assert files_in(claim) == FILES


def test_take_ends_after_its_bytes_though_the_stream_does_not(tmp_path: Path, claim: Path) -> None:
    content = tar_of(FILES)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.receiving", "take", claim, str(len(content))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    process.stdin.write(content)
    process.stdin.flush()
    assert process.stdout.read() == b"3\n"
    assert process.wait(60) == 0
    process.communicate()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(tar_of(FILES, checksums={}), 3, id="no checksums"),
        pytest.param(tar_of({"../x": b"x"}), 3, id="a path that leads outside"),
        pytest.param(b"not a tar" * 1_000, 3, id="not a tar"),
        pytest.param(tar_of({"file/x": b"x"}), 8, id="a folder where a file is"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(
    tmp_path: Path, claim: Path, content: bytes, code: int
) -> None:
    (claim / "file").write_bytes(b"")
    done = run(tmp_path, "take", str(claim), str(len(content)), content=content)
    assert (done.returncode, done.stdout) == (code, b"")
    assert len(done.stderr.splitlines()) == 1
    assert files_in(claim) == {"file": b""}


def test_a_file_that_arrives_changed_is_not_written_and_the_old_one_stays(claim: Path) -> None:
    old = tar_of({"a/1.jpg": b"old"})
    assert receiving.take(claim, io.BytesIO(old), len(old)) == 1
    content = tar_of({"a/1.jpg": b"changed"}, checksums={"a/1.jpg": sha256(b"new")})
    with pytest.raises(DataError) as caught:
        receiving.take(claim, io.BytesIO(content), len(content))
    for part in ("1.jpg", sha256(b"new"), sha256(b"changed")):
        assert part in str(caught.value)
    assert files_in(claim) == {"a/1.jpg": b"old"}


def test_a_second_try_leaves_nothing_of_a_receiver_that_was_killed(tmp_path: Path, claim: Path) -> None:
    content = tar_of({"1.jpg": b"x" * 3_000_000})
    killed = subprocess.Popen(
        [sys.executable, "-m", "trainer.receiving", "take", claim, str(len(content))], stdin=subprocess.PIPE
    )
    assert killed.stdin
    killed.stdin.write(content[:2_500_000])
    killed.stdin.flush()
    while not any(path.stat().st_size for path in claim.iterdir()):
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    assert files_in(claim)  # a partial file
    assert receiving.take(claim, io.BytesIO(content), len(content)) == 1
    assert files_in(claim) == {"1.jpg": b"x" * 3_000_000}
