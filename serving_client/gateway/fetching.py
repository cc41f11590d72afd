"""Pictures by URL: from the hosts that are allowed, and never from inside the network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import httpx

from serving_client.errors import ImageError
from serving_client.gateway.settings import Limits

_TIMEOUT_S = 10

# How networks without IPv4 reach it (RFC 6052): the last 32 bits are the address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Fetcher:
    """Fetches over HTTPS, or HTTP, without redirects, cookies or proxies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # A connection is not kept: it was opened to an address, and another host may share that.
        self._http = httpx.AsyncClient(
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def fetch_all(self, urls: Sequence[str]) -> list[tuple[str, bytes | ImageError]]:
        """Return each URL with its content, or with the reason why there is none.

        All of them together may have as many bytes as a request's body.
        """
        fetched = []
        left = self._limits.body_bytes
        for url in urls:
            content = await self._fetch(url, left)
            if isinstance(content, bytes):
                left -= len(content)
            fetched.append((url, content))
        return fetched

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _fetch(self, url: str, most_bytes: int) -> bytes | ImageError:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            return ImageError(f"{url[:200]}: is no URL: {error}.")
        host = parsed.host
        if host not in self._limits.url_hosts:
            allowed = ", ".join(sorted(self._limits.url_hosts))
            return ImageError(f"{url[:200]}: pictures are fetched from these hosts only: {allowed}.")
        if parsed.scheme not in ("http", "https"):
            return ImageError(f"{url}: must begin with https:// or http://.")
        try:
            return await asyncio.wait_for(self._get(parsed, most_bytes), _TIMEOUT_S)
        except (httpx.HTTPError, OSError, asyncio.TimeoutError, _RefusedError) as error:
            return ImageError(f"{url}: could not be fetched: {error or type(error).__name__}.")

    async def _get(self, url: httpx.URL, most_bytes: int) -> bytes:
        address = await _public_address(url.host, url.port or (443 if url.scheme == "https" else 80))
        # To the very address that was looked at: a second look-up could give another one.
        request = self._http.build_request(
            "GET",
            url.copy_with(host=address),
            headers={"Host": url.netloc.decode()},
            extensions={"sni_hostname": url.host},
        )
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code != httpx.codes.OK:
                raise _RefusedError(f"the host answered {response.status_code}")
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > most_bytes:
                    raise _RefusedError(f"larger than the {most_bytes:,} bytes that are left")
            return bytes(content)
        finally:
            await response.aclose()


class _RefusedError(Exception):
    pass


async def _public_address(host: str, port: int) -> str:
    """Look a host up.

    Raises:
      _RefusedError: one of its addresses is not public.
      OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not _is_public(ipaddress.ip_address(address.partition("%")[0])):
            raise _RefusedError(f"{host} has an address that is not public")
    return addresses[0]


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (inner or address).is_global and not (inner or address).is_multicast
