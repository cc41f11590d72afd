"""The gRPC channel to TensorFlow Serving: deadline, retries, load balancing, message limits, TLS."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import grpc

from serving_client import wire
from serving_client.errors import InvalidRequest

# Deadline of each call, retries included.
DEFAULT_TIMEOUT_S = 10.0

# gRPC's own limit for a response is 4 MiB. 16 rows of 1,000 classes need far less, but raw tensors may need
# more.
_MAX_RESPONSE_BYTES = 256 * 1024 * 1024
# gRPC does not retry a request larger than this. Its own default, 256 KiB, is a single image of 150 px.
_RETRY_BUFFER_BYTES = 256 * 1024 * 1024

_RETRY_POLICY = {
    # gRPC accepts 5 attempts at most. With these waits they span 4 s; gRPC adds jitter itself. So calls that
    # find all server threads busy spread out until threads are free again.
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "3s",
    "backoffMultiplier": 3,
    # A pod that stops or starts, and a server whose threads are all busy. Other errors would only repeat.
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}

_SERVICE_CONFIG = {
    # Spread calls over all addresses of the name: a headless Service resolves to every pod.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "tensorflow.serving.PredictionService"},
                {"service": "tensorflow.serving.ModelService"},
            ],
            "retryPolicy": _RETRY_POLICY,
        }
    ],
}

METHODS = (wire.PREDICT, wire.GET_MODEL_STATUS)

# Synchronous and asyncio channels share these options.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
    # Pings detect a server that vanished silently. They are rare because servers close connections that ping
    # more than once in five minutes (grpc.http2.min_recv_ping_interval_without_data_ms).
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # When an address fails, resolve the name again after 1 s; gRPC's default is 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


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

    def options(self) -> tuple[tuple[str, Any], ...]:
        """Return the channel options that TLS adds."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"TLS needs a readable PEM file. Received: {path}: {error.strerror}.") from error


def open_channel(server: str, tls: Tls | None) -> grpc.Channel:
    """Open a channel without connecting yet.

    Args:
      server: HOST:PORT, or any of gRPC's names, such as dns:///HOST:PORT.
      tls: None disables encryption.
    """
    if tls is None:
        return grpc.insecure_channel(server, options=_OPTIONS)
    return grpc.secure_channel(server, tls.credentials(), options=(*_OPTIONS, *tls.options()))


def open_aio_channel(server: str, tls: Tls | None, interceptors: Any = None) -> grpc.aio.Channel:
    """Open the same channel in the running event loop."""
    if tls is None:
        return grpc.aio.insecure_channel(server, options=_OPTIONS, interceptors=interceptors)
    return grpc.aio.secure_channel(
        server, tls.credentials(), options=(*_OPTIONS, *tls.options()), interceptors=interceptors
    )


def check_timeout(timeout_s: float) -> None:
    """Raise InvalidRequest unless the deadline is positive."""
    if not timeout_s > 0:
        raise InvalidRequest(f"timeout_s must be positive. Received: {timeout_s}.")
