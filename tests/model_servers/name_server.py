"""A DNS server with one name, whose addresses a test sets."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType

_A = 1
_FLAGS = 0x8580  # an authoritative answer; recursion is available
_NAME_ERROR = 3


class NameServer:
    """Answers every question for an A record with `addresses`, which may change at any time.

    Attributes:
      addresses: of the name, IPv4. Empty, as of a headless Service without ready pods: the answer has no
        records.
      exists: False answers that there is no such name.
      questions: how many have been asked.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.exists = True
        self.questions = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def uri(self, port: int) -> str:
        """Return the name for gRPC, with this server to ask for it."""
        return f"dns://127.0.0.1:{self.port}/serving.example:{port}"

    def close(self) -> None:
        """End the server; questions get no answer any more."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            query, caller = self._socket.recvfrom(4096)
            if not query:
                return
            self.questions += 1
            self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        """Source: RFC 1035, section 4.1."""
        end = query.index(0, 12) + 5
        (kind,) = struct.unpack_from(">H", query, end - 4)
        found = self.addresses if kind == _A and self.exists else []
        flags = _FLAGS if self.exists else _FLAGS | _NAME_ERROR
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
        records = [
            struct.pack(">HHHIH", 0xC00C, _A, 1, 1, 4) + socket.inet_aton(address) for address in found
        ]
        return head + query[12:end] + b"".join(records)
