"""`fetch-data` from an HTTP server and from files."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from trainer import __main__ as cli
from trainer.cluster import fetching
from trainer.runtime import storage

Mode = Literal["w", "w:gz", "w:bz2", "w:xz"]
FILES = {"train/a/1.jpg": b"one", "train/b/2.jpg": b"two" * 100_000, "validation/a/3.jpg": b""}


def tar_of(
    path: Path, files: dict[str, bytes], mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w:gz", top: str = ""
) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def zip_of(path: Path, files: dict[str, bytes], top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
    return path


def found(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != fetching.MARKER
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(archive: Path | str, directory: Path, *flags: str) -> int:
    url = archive if isinstance(archive, str) else archive.as_uri()
    return cli.main(["fetch-data", url, str(directory), *flags])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("top", ["", "clothing-1.0/"])
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_an_archive_becomes_a_folder_without_the_single_folder_at_its_top(
    tmp_path: Path, kind: str, top: str
) -> None:
    path = tmp_path / f"images.{kind}"
    if kind == "zip":
        zip_of(path, FILES, top)
    else:
        tar_of(path, FILES, "w" if kind == "tar" else "w:gz", top)
    assert fetch(path, tmp_path / "data") == 0
    assert found(tmp_path / "data") == FILES


def test_a_split_at_the_top_stays(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if name.startswith("train")}
    assert fetch(tar_of(tmp_path / "a.tgz", files), tmp_path / "data") == 0
    assert found(tmp_path / "data") == files


def test_an_archive_is_fetched_over_http_with_its_checksum(tmp_path: Path, address: str) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    url = f"{address}/images.tar.gz"
    assert fetch(url, tmp_path / "data", "--sha256", sha256(path).upper()) == 0
    assert found(tmp_path / "data") == FILES


def test_a_second_time_nothing_is_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    assert fetch(path, tmp_path / "data") == 0
    path.unlink()
    assert fetch(path, tmp_path / "data") == 0
    assert str(tmp_path / "data") in capsys.readouterr().out


def test_when_several_processes_start_at_once_one_fetches_and_the_others_wait(
    tmp_path: Path, address: str
) -> None:
    """The workers of one Job, on one volume."""
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    command = [
        sys.executable,
        "-m",
        "trainer",
        "fetch-data",
        f"{address}/images.tar.gz",
        str(tmp_path / "data"),
    ]
    command.append(f"--sha256={sha256(path)}")
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sum(line.startswith("Fetched") for line in printed) == 1
    assert found(tmp_path / "data") == FILES


def test_a_process_that_waits_for_another_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    with ThreadPoolExecutor() as pool:
        with storage.locked(tmp_path / ".data.lock"):
            done = pool.submit(fetch, path, tmp_path / "data")
            printed, deadline = "", time.monotonic() + 60
            while not printed and time.monotonic() < deadline:
                printed += capsys.readouterr().err
                time.sleep(0.01)
            assert str(tmp_path / "data") in printed
            assert not (tmp_path / "data").exists()
        assert done.result(60) == 0
    assert found(tmp_path / "data") == FILES


def test_the_same_checksum_is_the_same_content_whatever_the_url(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    assert fetch(path, tmp_path / "data", "--sha256", sha256(path)) == 0
    assert fetch("https://localhost:1/moved.tar.gz", tmp_path / "data", "--sha256", sha256(path).upper()) == 0


def test_a_folder_with_other_content_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tar_of(tmp_path / "first.tar.gz", FILES)
    assert fetch(first, tmp_path / "data") == 0
    second = tar_of(tmp_path / "second.tar.gz", {"x": b"x"})
    assert fetch(second, tmp_path / "data") == 2
    assert first.as_uri() in capsys.readouterr().err
    assert found(tmp_path / "data") == FILES


@pytest.mark.parametrize(
    ("url", "flags", "parts"),
    [
        ("http://localhost/a.tar", [], ["--sha256", "http"]),
        ("ftp://localhost/a.tar", [], ["https://, http://, s3://, gs://, file://", "ftp://localhost/a.tar"]),
        ("images.tar", [], ["https://", "images.tar"]),
        ("https://localhost/a", ["--sha256", "abc"], ["--sha256", "64", "abc"]),
    ],
)
def test_invalid_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, flags: list[str], parts: list[str]
) -> None:
    assert fetch(url, tmp_path / "data", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part in line
    assert not (tmp_path / "data").exists()


def nothing_is_left(tmp_path: Path) -> bool:
    return not (tmp_path / "data").exists() and not list(tmp_path.glob(".data.*.fetching"))


def test_a_wrong_checksum_is_refused_before_anything_is_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    assert fetch(path, tmp_path / "data", "--sha256", "0" * 64) == 3
    assert sha256(path) in capsys.readouterr().err
    assert nothing_is_left(tmp_path)


def test_a_missing_url_is_an_error_that_a_job_retries(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(f"{address}/nowhere.tar", tmp_path / "data", "--sha256", "0" * 64) == 8
    assert f"{address}/nowhere.tar" in capsys.readouterr().err
    assert nothing_is_left(tmp_path)


def special(kind: bytes, target: str = "/etc/passwd") -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("x")
        member.type, member.linkname = kind, target
        tar.addfile(member)

    return add


@pytest.mark.parametrize(
    "add",
    [
        pytest.param(lambda tar: tar.addfile(tarfile.TarInfo("../x")), id="dots"),
        pytest.param(lambda tar: tar.addfile(tarfile.TarInfo("a/../../x")), id="dots within"),
        pytest.param(lambda tar: tar.addfile(tarfile.TarInfo("/x")), id="absolute"),
        pytest.param(lambda tar: tar.addfile(tarfile.TarInfo("..\\x")), id="backslash"),
        pytest.param(lambda tar: tar.addfile(tarfile.TarInfo("c:x")), id="drive"),
        pytest.param(special(tarfile.SYMTYPE), id="symbolic link"),
        pytest.param(special(tarfile.LNKTYPE), id="hard link"),
        pytest.param(special(tarfile.CHRTYPE), id="device"),
        pytest.param(special(tarfile.FIFOTYPE), id="pipe"),
    ],
)
def test_tars_that_would_write_outside_are_refused(
    tmp_path: Path, add: Callable[[tarfile.TarFile], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        add(tar)
    assert fetch(path, tmp_path / "data") == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x"])
def test_zips_that_would_write_outside_are_refused(tmp_path: Path, name: str) -> None:
    assert fetch(zip_of(tmp_path / "images.zip", {name: b"x"}), tmp_path / "data") == 3
    assert nothing_is_left(tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("x")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert fetch(tmp_path / "images.zip", tmp_path / "data") == 3
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an archive", "half"])
def test_an_incomplete_archive_is_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    assert fetch(path, tmp_path / "data") == 3
    assert nothing_is_left(tmp_path)


def test_too_little_space_is_an_error_before_it_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tar_of(tmp_path / "images.tar.gz", FILES)
    monkeypatch.setattr("trainer.cluster.fetching.shutil.disk_usage", lambda _: SimpleNamespace(free=1_000))
    assert fetch(path, tmp_path / "data") == 8
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("300,000 bytes", "train/b/2.jpg", "1,000 bytes"):
        assert part in line
    assert nothing_is_left(tmp_path)


def test_the_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".data.0123.fetching").mkdir()
    assert fetch(tar_of(tmp_path / "images.tar.gz", FILES), tmp_path / "data") == 0
    assert not list(tmp_path.glob(".data.*.fetching"))
    assert json.loads((tmp_path / "data" / fetching.MARKER).read_text())["sha256"] is None


def test_a_missing_package_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert fetch("s3://bucket/images.tar", tmp_path / "data") == 2
    assert "image-classifier-on-kubernetes[fetch]" in capsys.readouterr().err
