"""Pictures by URL, from a real HTTP server; only what counts as public is changed, where it says so."""

import asyncio
import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving_client.errors import ImageError
from serving_client.gateway import fetching
from serving_client.gateway.fetching import Fetcher
from serving_client.gateway.settings import Limits

seen_hosts: list[str] = []


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        seen_hosts.append(self.headers["Host"])
        status = {"/gone": 404, "/moved": 302}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://169.254.169.254/secret")
        self.end_headers()
        self.wfile.write(b"x" * (2_000 if self.path == "/large" else 100))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_is_public", lambda address: address.is_loopback)


def fetch(*urls: str, hosts: tuple[str, ...] = ("localhost",)) -> list[bytes | ImageError]:
    async def all_of_them() -> list[bytes | ImageError]:
        fetcher = Fetcher(Limits(url_hosts=frozenset(hosts), body_bytes=1_000))
        fetched = await fetcher.fetch_all(urls)
        await fetcher.close()
        assert [url for url, _ in fetched] == list(urls)
        return [content for _, content in fetched]

    return asyncio.run(all_of_them())


@pytest.mark.usefixtures("loopback_is_public")
def test_a_picture_comes_from_an_allowed_host(port: int) -> None:
    seen_hosts.clear()
    assert fetch(f"http://localhost:{port}/a") == [b"x" * 100]
    assert seen_hosts == [f"localhost:{port}"]  # the name, though the address was looked up before


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone", "the host answered 404"),
        ("/moved", "the host answered 302"),
        ("/large", "larger than the 1,000 bytes"),
    ],
)
def test_what_is_no_picture_is_said(port: int, path: str, message: str) -> None:
    (error,) = fetch(f"http://localhost:{port}{path}")
    assert message in str(error)


@pytest.mark.usefixtures("loopback_is_public")
def test_all_urls_together_have_one_limit(port: int) -> None:
    contents = fetch(*[f"http://localhost:{port}/a"] * 11)
    assert contents[:10] == [b"x" * 100] * 10
    assert "larger than the 0 bytes" in str(contents[10])


def test_a_private_address_is_refused_even_of_an_allowed_host(port: int) -> None:
    seen_hosts.clear()
    (error,) = fetch(f"http://localhost:{port}/a")
    assert "localhost has an address that is not public" in str(error)
    assert not seen_hosts


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a",
        "http://localhost.other.example/a",
        "http://other.example@127.0.0.1/",
        "http://localhost@127.0.0.1/",
        "http://127.0.0.1/",
        "//localhost/a",
        "localhost",
        "http://",
        "",
    ],
)
def test_other_hosts_are_refused(url: str) -> None:
    (error,) = fetch(url)
    assert isinstance(error, ImageError)
    assert "from these hosts only: localhost" in str(error) or "must begin with" in str(error)


@pytest.mark.parametrize("url", ["file://localhost/etc/passwd", "ftp://localhost/a", "gopher://localhost/"])
def test_other_schemes_are_refused(url: str) -> None:
    (error,) = fetch(url)
    assert "must begin with https:// or http://" in str(error)


def test_what_is_no_url_is_refused() -> None:
    (error,) = fetch("http://local host\x00/")
    assert "is no URL" in str(error)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert fetching._is_public(ipaddress.ip_address(address)) == public
