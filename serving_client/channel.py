"""A gRPC channel as calls to TensorFlow Serving want it: retries, load balancing, limits, TLS."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import grpc

from serving_client import wire
from serving_client.errors import InvalidRequest

# gRPC's own limit for an answer is 4 MiB: 1,000 classes × 16 rows need far less, raw tensors may not.
_MAX_ANSWER_BYTES = 256 * 1024 * 1024
# A request that is larger than this is sent once and not again; gRPC's own 256 KiB is one image at 150 px.
_RETRY_BUFFER_BYTES = 256 * 1024 * 1024

_SERVICE_CONFIG = {
    # Every address that a name has gets its share: a headless Service names all pods.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "tensorflow.serving.PredictionService"},
                {"service": "tensorflow.serving.ModelService"},
            ],
            "retryPolicy": {
                # The most that gRPC takes; they take 4 s in all, and gRPC itself adds the jitter. Callers
                # that a server has no threads for spread out until it has.
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "3s",
                "backoffMultiplier": 3,
                # A pod that goes or comes; a server whose threads are all busy. The rest would fail again.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}

METHODS = (wire.PREDICT, wire.GET_MODEL_STATUS)

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
    # A server that vanished without a word is noticed. Not more often: servers end connections that ping
    # more than once in five minutes (grpc.http2.min_recv_ping_interval_without_data_ms).
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # When an address fails, new ones are asked for at once; gRPC's own wait is 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
"""Of synchronous and asyncio channels alike."""


@dataclasses.dataclass(frozen=True)
class Tls:
    """PEM files for TLS, and for mutual TLS.

    Attributes:
      root_certificates: of whom the server's certificate must be; None: those of gRPC.
      certificate_chain: of this client, for mutual TLS; with `private_key`.
      private_key: of this client.
      server_name: that the server's certificate is for, if it is not the address.
    """

    root_certificates: str | os.PathLike[str] | None = None
    certificate_chain: str | os.PathLike[str] | None = None
    private_key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
          InvalidRequest: one cannot be read, or of certificate and key only one is given.
        """
        if (self.certificate_chain is None) != (self.private_key is None):
            raise InvalidRequest(
                "Mutual TLS needs certificate_chain and private_key. Received: one of them. Give both."
            )
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.root_certificates),
            private_key=_read(self.private_key),
            certificate_chain=_read(self.certificate_chain),
        )

    def options(self) -> tuple[tuple[str, Any], ...]:
        """Return the channel's options beside OPTIONS."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"TLS needs PEM files. Received: {path}: {error.strerror}.") from error


def open_channel(server: str, tls: Tls | None) -> grpc.Channel:
    """Open a channel; nothing is sent yet.

    Args:
      server: HOST:PORT, or any of gRPC's names, such as dns:///HOST:PORT.
      tls: None: in the clear.
    """
    if tls is None:
        return grpc.insecure_channel(server, options=OPTIONS)
    return grpc.secure_channel(server, tls.credentials(), options=(*OPTIONS, *tls.options()))


def open_aio_channel(server: str, tls: Tls | None) -> grpc.aio.Channel:
    """Do as `open_channel` in the running event loop."""
    if tls is None:
        return grpc.aio.insecure_channel(server, options=OPTIONS)
    return grpc.aio.secure_channel(server, tls.credentials(), options=(*OPTIONS, *tls.options()))
