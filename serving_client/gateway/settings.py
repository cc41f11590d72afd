"""What a gateway is told when it starts."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may ask for.

    Attributes:
      body_bytes: of one request, all its images together.
      images: in one request.
      pixels: of one image; its decoded levels take 4 bytes each.
      requests: that are read and answered at the same time.
      waiting: further requests, unread, that wait for their turn; more are refused with 503.
      url_hosts: from which pictures are fetched; none: no URL is fetched.
    """

    body_bytes: int = 32 * 2**20
    images: int = 32
    pixels: int = 50_000_000
    requests: int = 32
    waiting: int = 20_000
    url_hosts: frozenset[str] = frozenset()
