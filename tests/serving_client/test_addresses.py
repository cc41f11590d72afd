"""The server's name: what the client accepts, and the addresses that it finds."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from serving_client import InvalidRequest
from serving_client.transport import dns_query
from serving_client.transport.addresses import parse_server

A, CNAME, AAAA = 1, 5, 28
OK, SERVER_FAILURE, NAME_ERROR = 0, 2, 3
TRUNCATED = 0x0200
Record = tuple[int, bytes]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    "server", ["serving:8500", "dns:serving:8500", "dns:/serving:8500", "dns:///serving:8500"]
)
def test_a_name_is_resolved_and_stays_the_authority(server: str) -> None:
    name = parse_server(server)
    assert (name.host, name.port, name.targets, name.dns_server) == ("serving", 8500, (), "")
    assert name.authority == "serving:8500"


@pytest.mark.parametrize(
    ("server", "targets", "authority"),
    [
        ("127.0.0.1:8500", ["ipv4:127.0.0.1:8500"], "127.0.0.1:8500"),
        ("[::1]:8500", ["ipv6:[::1]:8500"], "[::1]:8500"),
        ("dns:///[fe80::1%25eth0]:8500", ["ipv6:[fe80::1%25eth0]:8500"], "[fe80::1%eth0]:8500"),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", ["ipv4:127.0.0.1:1", "ipv4:127.0.0.2:2"], None),
        ("ipv6:[::1]:1,[::2]:2", ["ipv6:[::1]:1", "ipv6:[::2]:2"], None),
        ("unix:/run/serving.sock", ["unix:/run/serving.sock"], None),
        ("unix-abstract:serving", ["unix-abstract:serving"], None),
        ("xds:///serving", ["xds:///serving"], None),
    ],
)
def test_addresses_need_no_resolution(server: str, targets: list[str], authority: str | None) -> None:
    name = parse_server(server)
    assert (list(name.targets), name.authority, name.host) == (targets, authority, "")


@pytest.mark.parametrize(
    "server",
    [
        *(
            "",
            ":8500",
            "serving",
            "serving:",
            "serving:0",
            "serving:65536",
            "serving:99999999999",
            "serving:-1",
        ),
        *("serving:http", "serving:８５００", "serving:8500/v1", "http://serving:8500", "user@serving:8500"),
        *("a b:8500", "a..b:8500", "-a:8500", f"{'a' * 64}:8500", "::1:8500", "[::1]", "[serving]:8500"),
        *("dns:///serving", "dns:///:8500", "dns://127.0.0.1:99999/serving:8500", "ipv4:[::1]:8500"),
        *("ipv4:serving:8500", "ipv4:127.0.0.1:1,", "ipv6:127.0.0.1:1", "unix:", "serving:8500\n"),
    ],
)
def test_refuses_a_malformed_server(server: str) -> None:
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        parse_server(server)


def test_a_host_whose_name_is_a_scheme() -> None:
    assert (parse_server("dns:8500").host, parse_server("localhost:8500").host) == ("dns", "localhost")


def test_a_name_that_a_proxy_serves_is_left_to_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost, .cluster.local")
    assert parse_server("serving.example:8500").left_to_grpc
    assert parse_server("serving.example:8500").targets == ("serving.example:8500",)
    assert not parse_server("localhost:8500").left_to_grpc
    assert not parse_server("classifier-pods.ml.svc.cluster.local:8500").left_to_grpc
    monkeypatch.setenv("no_grpc_proxy", "serving.example")
    assert not parse_server("serving.example:8500").left_to_grpc


def test_localhost_resolves_without_repetitions() -> None:
    targets = parse_server("localhost:8500").resolve()
    assert "ipv4:127.0.0.1:8500" in targets
    assert len(set(targets)) == len(targets)


def test_a_name_without_address_is_an_os_error() -> None:
    with pytest.raises(OSError, match="."):
        parse_server("no-such-host.invalid:8500").resolve()


def question(query: bytes) -> tuple[int, bytes]:
    """Return the kind of record asked for, and the question as it came."""
    end = query.index(0, 12) + 5
    return struct.unpack_from(">H", query, end - 4)[0], query[12:end]


def answer(query: bytes, records: list[Record], flags: int = OK, name: bytes = b"\xc0\x0c") -> bytes:
    _, asked = question(query)
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | flags, 1, len(records), 0, 0)
    return (
        head
        + asked
        + b"".join(name + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for kind, data in records)
    )


@contextlib.contextmanager
def dns_server(
    respond: Callable[[bytes], list[bytes]], respond_over_tcp: Callable[[bytes], bytes] | None = None
) -> Iterator[str]:
    """Run a DNS server that sends each datagram that `respond` returns for a query; yield HOST:PORT."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        udp.bind(tcp.getsockname())

        def serve_udp() -> None:
            while (received := udp.recvfrom(4096))[0]:
                for datagram in respond(received[0]):
                    udp.sendto(datagram, received[1])

        def serve_tcp() -> None:
            for _ in range(2):
                connection, _ = tcp.accept()
                with connection:
                    (size,) = struct.unpack(">H", connection.recv(2))
                    assert respond_over_tcp
                    response = respond_over_tcp(connection.recv(size))
                    for byte in struct.pack(">H", len(response)) + response:  # arrives in pieces
                        connection.send(bytes([byte]))

        threads = [threading.Thread(target=serve_udp)]
        threads += [threading.Thread(target=serve_tcp)] if respond_over_tcp else []
        for thread in threads:
            thread.start()
        try:
            yield f"127.0.0.1:{udp.getsockname()[1]}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", udp.getsockname())
            for thread in threads:
                thread.join()


def address_records(query: bytes) -> list[Record]:
    kind, _ = question(query)
    if kind == A:
        return [(A, bytes([127, 0, 0, number])) for number in (2, 3)]
    return [(AAAA, socket.inet_pton(socket.AF_INET6, "::1"))]


def test_asks_the_named_dns_server_for_both_kinds_of_addresses() -> None:
    with dns_server(lambda query: [answer(query, address_records(query))]) as server:
        name = parse_server(f"dns://{server}/serving.example:8500")
        assert name.resolve() == ("ipv4:127.0.0.2:8500", "ipv4:127.0.0.3:8500", "ipv6:[::1]:8500")
        assert name.authority == "serving.example:8500"


def test_reads_aliases_and_names_that_are_not_compressed() -> None:
    def respond(query: bytes) -> list[bytes]:
        kind, _ = question(query)
        alias = (CNAME, b"\x03pod\xc0\x14")
        name = b"\x07serving\x07example\x00"
        return [answer(query, [alias, (A, bytes([127, 0, 0, 2]))] if kind == A else [alias], name=name)]

    with dns_server(respond) as server:
        assert dns_query.addresses(server, "serving.example") == ["127.0.0.2"]


def test_asks_again_over_tcp_if_the_answer_is_truncated() -> None:
    many = [(A, bytes([10, 0, 0, number])) for number in range(200)]
    with dns_server(
        lambda query: [answer(query, [], TRUNCATED)],
        lambda query: answer(query, many if question(query)[0] == A else []),
    ) as server:
        assert len(dns_query.addresses(server, "serving.example")) == 200


def test_ignores_answers_to_other_questions() -> None:
    def respond(query: bytes) -> list[bytes]:
        other = bytes([query[0] ^ 0xFF]) + query[1:]
        return [answer(other, [(A, bytes([6, 6, 6, 6]))]), answer(query, address_records(query))]

    with dns_server(respond) as server:
        assert "6.6.6.6" not in dns_query.addresses(server, "serving.example")


def test_asks_again_if_a_datagram_is_lost() -> None:
    seen: set[bytes] = set()

    def respond(query: bytes) -> list[bytes]:
        if query in seen:
            return [answer(query, address_records(query))]
        seen.add(query)
        return []

    with pytest.MonkeyPatch.context() as patch, dns_server(respond) as server:
        patch.setattr(dns_query, "_TIMEOUT_S", 0.1)
        assert len(dns_query.addresses(server, "serving.example")) == 3


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        pytest.param(lambda query: [answer(query, [])], "no address", id="no records"),
        pytest.param(lambda query: [answer(query, [], NAME_ERROR)], "no address", id="no such name"),
        pytest.param(lambda query: [answer(query, [], SERVER_FAILURE)], "code 2", id="failure"),
        pytest.param(lambda query: [answer(query, address_records(query))[:-3]], "cannot be read", id="cut"),
        pytest.param(lambda query: [answer(query, [(A, b"\x01")])], "cannot be read", id="short address"),
        pytest.param(lambda query: [query[:2]], "cannot be read", id="empty"),
        pytest.param(lambda query: [], "does not answer", id="silence"),
    ],
)
def test_a_dns_server_that_does_not_help_is_an_os_error(
    respond: Callable[[bytes], list[bytes]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_query, "_TIMEOUT_S", 0.1)
    with dns_server(respond) as server, pytest.raises(OSError, match=reason):
        dns_query.addresses(server, "serving.example")
