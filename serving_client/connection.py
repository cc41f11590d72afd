"""What a caller may say about the connection: TLS, metadata, time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import grpc

from serving_client.errors import InvalidRequest

# Deadline of each conversation, retries included.
DEFAULT_TIMEOUT_S = 10.0

Metadata = Sequence[tuple[str, str | bytes]]
"""Keys in lower case and their values. A value is printable ASCII, or bytes if its key ends in "-bin"."""


@dataclasses.dataclass(frozen=True)
class Tls:
    """PEM files for TLS and mutual TLS.

    Attributes:
      root_certificates: the authorities that may sign the server's certificate; None uses gRPC's own list.
      certificate_chain: this client's certificate, for mutual TLS; requires `private_key`.
      private_key: this client's private key.
      server_name: the name in the server's certificate, if it differs from the address.
    """

    root_certificates: str | os.PathLike[str] | None = None
    certificate_chain: str | os.PathLike[str] | None = None
    private_key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
          InvalidRequest: a file cannot be read, or only one of certificate and key is given.
        """
        if (self.certificate_chain is None) != (self.private_key is None):
            given = "private_key" if self.certificate_chain is None else "certificate_chain"
            raise InvalidRequest(
                f"Mutual TLS needs certificate_chain and private_key. Received: only {given}. Give both."
            )
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.root_certificates),
            private_key=_read(self.private_key),
            certificate_chain=_read(self.certificate_chain),
        )


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"TLS needs a readable PEM file. Received: {path}: {error.strerror}.") from error
