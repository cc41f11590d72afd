"""Ask one DNS server for a name's addresses. Only names such as dns://SERVER/HOST:PORT need it."""

from __future__ import annotations

import os
import socket
import struct

_A, _AAAA = 1, 28
_IN = 1
_TIMEOUT_S = 2.0
_TRIES = 2
_MAX_UDP_BYTES = 4096


def addresses(server: str, host: str) -> list[str]:
    """Return the IPv4 and IPv6 addresses of a host.

    Args:
      server: HOST:PORT of the DNS server.
      host: an absolute name; search domains are not tried.
    Raises:
      OSError: the server does not answer or refuses, or the host has no address.
    Source: RFC 1035, section 4.
    """
    dns_host, _, port = server.rpartition(":")
    family, _, _, _, endpoint = socket.getaddrinfo(dns_host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
    found = [address for kind in (_A, _AAAA) for address in _ask(family, endpoint, host, kind)]
    if not found:
        raise OSError(f"the DNS server {server} knows no address of {host}")
    return found


def _ask(family: int, endpoint: tuple[object, ...], host: str, kind: int) -> list[str]:
    query = _query(host, kind)
    for last in (False, True):
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.settimeout(_TIMEOUT_S)
            udp.connect(endpoint)  # from here on, the kernel drops datagrams of other senders
            udp.send(query)
            try:
                answer = udp.recv(_MAX_UDP_BYTES)
                while answer[:2] != query[:2]:
                    answer = udp.recv(_MAX_UDP_BYTES)
                break
            except TimeoutError:
                if last:
                    raise OSError("the DNS server does not answer") from None
    if len(answer) > 2 and answer[2] & 0x02:  # truncated: ask again over TCP
        answer = _ask_over_tcp(family, endpoint, query)
    try:
        return _read(answer, kind)
    except (IndexError, ValueError, struct.error):
        raise OSError("the DNS server's answer cannot be read") from None


def _query(host: str, kind: int) -> bytes:
    labels = [label.encode("idna") for label in host.rstrip(".").split(".")]
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    recursion_desired = 0x0100
    return (
        struct.pack(">HHHHHH", int.from_bytes(os.urandom(2), "big"), recursion_desired, 1, 0, 0, 0)
        + name
        + struct.pack(">HH", kind, _IN)
    )


def _ask_over_tcp(family: int, endpoint: tuple[object, ...], query: bytes) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as tcp:
        tcp.settimeout(_TIMEOUT_S)
        tcp.connect(endpoint)
        tcp.sendall(struct.pack(">H", len(query)) + query)
        with tcp.makefile("rb") as stream:
            (size,) = struct.unpack(">H", stream.read(2))
            return stream.read(size)


def _read(answer: bytes, kind: int) -> list[str]:
    """Return the addresses of one kind. The server adds those that an alias (CNAME) stands for."""
    _, flags, questions, answers, _, _ = struct.unpack_from(">HHHHHH", answer)
    code = flags & 0x000F
    no_such_name = 3
    if code == no_such_name:
        return []
    if code:
        raise OSError(f"the DNS server refuses with code {code}")
    position = 12
    for _ in range(questions):
        position = _skip_name(answer, position) + 4
    found = []
    for _ in range(answers):
        position = _skip_name(answer, position)
        record, _, _, size = struct.unpack_from(">HHIH", answer, position)
        position += 10
        if record == kind:
            family = socket.AF_INET if kind == _A else socket.AF_INET6
            found.append(socket.inet_ntop(family, answer[position : position + size]))
        position += size
    return found


def _skip_name(message: bytes, position: int) -> int:
    """Return the position after a name. It ends with an empty label or with a pointer of two bytes."""
    while length := message[position]:
        if length >= 0xC0:
            return position + 2
        position += 1 + length
    return position + 1
