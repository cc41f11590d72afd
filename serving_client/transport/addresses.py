"""The server's name: how it is written, and which addresses it stands for."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import socket
from urllib.parse import unquote

from serving_client.errors import InvalidRequest
from serving_client.transport import dns_query

_LABEL = r"[^\W-](?:[\w-]{0,61}\w)?"
_HOST_NAME = re.compile(rf"_?{_LABEL}(?:\._?{_LABEL})*\.?")
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?P<rest>.*)", re.DOTALL)
# gRPC's schemes whose targets this client passes on unread.
_LEFT_TO_GRPC = ("unix", "unix-abstract", "vsock", "xds", "google-c2p", "passthrough")
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")


@dataclasses.dataclass(frozen=True)
class Name:
    """A server's name, as the caller wrote it.

    Attributes:
      targets: gRPC targets, one per address, if the name says them itself; otherwise empty.
      host: what to resolve if `targets` is empty.
      port: the port of each address.
      authority: the HTTP/2 authority of calls, which is also the name to verify in a certificate; None leaves
        it to gRPC.
      dns_server: HOST:PORT of the DNS server to ask instead of the system's resolver.
      left_to_grpc: gRPC resolves, connects and balances, possibly through a proxy.
    """

    targets: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    authority: str | None = None
    dns_server: str = ""
    left_to_grpc: bool = False

    def resolve(self) -> tuple[str, ...]:
        """Return a gRPC target per address. It blocks until the resolver answers.

        Raises:
          OSError: the name has no address, or the resolver does not answer.
        """
        if self.dns_server:
            found = dns_query.addresses(self.dns_server, self.host)
        else:
            answers = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            found = [str(address[0]) for *_, address in answers]
        return tuple(dict.fromkeys(_target(address, self.port) for address in found))


def parse_server(server: str) -> Name:
    """Read HOST:PORT or one of gRPC's names, such as dns:///HOST:PORT or ipv4:A.B.C.D:PORT,A.B.C.D:PORT.

    Raises:
      InvalidRequest: the name is malformed, or a port is missing or out of range.
    """
    if not isinstance(server, str):
        raise InvalidRequest(f"server must be text, such as localhost:8500. Received: {server!r}.")
    match = _SCHEME.fullmatch(server)
    scheme, rest = (match["scheme"], match["rest"]) if match else ("", "")
    if scheme in _LEFT_TO_GRPC and rest:
        return Name(targets=(server,), left_to_grpc=True)
    if scheme in ("ipv4", "ipv6"):
        pairs = [_host_and_port(unquote(part), server) for part in rest.removeprefix("///").split(",")]
        if not all(_version_of(host) == int(scheme[3:]) for host, _ in pairs):
            raise _malformed(server)
        return Name(targets=tuple(_target(host, port) for host, port in pairs))
    if scheme == "dns" and not rest.isdecimal():  # otherwise it is a host called "dns" with its port
        dns_server, endpoint = _split_authority(rest)
    else:
        dns_server, endpoint = "", server
    host, port = _host_and_port(unquote(endpoint), server)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if _is_proxied(host):
        return Name(targets=(server,), left_to_grpc=True)
    if _version_of(host):
        return Name(targets=(_target(host, port),), authority=authority)
    if dns_server:
        dns_host, dns_port = _host_and_port(dns_server, server, default_port=53)
        dns_server = f"[{dns_host}]:{dns_port}" if ":" in dns_host else f"{dns_host}:{dns_port}"
    return Name(host=host, port=port, authority=authority, dns_server=dns_server)


def _split_authority(rest: str) -> tuple[str, str]:
    """Split what follows dns: into the DNS server and the endpoint."""
    if not rest.startswith("//"):
        return "", rest.removeprefix("/")
    dns_server, _, endpoint = rest[2:].partition("/")
    return dns_server, endpoint


def _host_and_port(endpoint: str, server: str, default_port: int | None = None) -> tuple[str, int]:
    host, colon, port = endpoint.rpartition(":")
    if default_port is not None and (not colon or endpoint.endswith("]")):
        host, port = endpoint, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if _version_of(host) != 6:
            raise _malformed(server)
    elif not _HOST_NAME.fullmatch(host):
        raise _malformed(server)
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise _malformed(server)
    return host, int(port)


def _malformed(server: str) -> InvalidRequest:
    return InvalidRequest(
        "server must be HOST:PORT or one of gRPC's names, such as dns:///HOST:PORT, with a port from 1 to "
        f"65535. Received: {server!r}."
    )


def _version_of(host: str) -> int | None:
    """Return 4 or 6 for an IP address."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _target(address: str, port: int) -> str:
    if ":" not in address:
        return f"ipv4:{address}:{port}"
    return f"ipv6:[{address.replace('%', '%25')}]:{port}"


def _is_proxied(host: str) -> bool:
    """Tell whether gRPC would connect to this host through an HTTP proxy: it reads these variables."""
    environment = os.environ
    if not any(environment.get(variable) for variable in _PROXY_VARIABLES):
        return False
    exceptions = next(filter(None, map(environment.get, _NO_PROXY_VARIABLES)), "")
    suffixes = [suffix.strip().lower() for suffix in exceptions.split(",")]
    return not any(suffix and host.lower().endswith(suffix) for suffix in suffixes)
