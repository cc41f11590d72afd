"""Open the gRPC channels: message limits, keepalive, TLS, interceptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from serving_client.connection import Tls
from serving_client.transport.addresses import Name

# gRPC's own limit for a response is 4 MiB. 16 rows of 1,000 classes need far less, but raw tensors may need
# more.
_MAX_RESPONSE_BYTES = 256 * 1024 * 1024
# What the channels of all servers have in common.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
    ("grpc.max_send_message_length", -1),
    # `delivery` decides about retries. gRPC repeats only what no server has seen, without a policy.
    ("grpc.service_config_disable_resolution", 1),
    # Pings detect a server that vanished silently. They are rare because servers close connections that ping
    # more than once in five minutes (grpc.http2.min_recv_ping_interval_without_data_ms).
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Connecting takes at most 5 s. A server that restarts at the same address is found within 1 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class Dialer:
    """Opens a channel to each address of a name, without connecting yet."""

    def __init__(self, name: Name, tls: Tls | None, compression: grpc.Compression | None) -> None:
        """Read the files of `tls`.

        Raises:
          InvalidRequest: a file cannot be read.
        """
        self._name = name
        self._credentials = tls.credentials() if tls else None
        self._compression = compression
        self._options = _OPTIONS
        if name.left_to_grpc:
            self._options += (("grpc.lb_policy_name", "round_robin"),)
        else:
            self._options += (("grpc.enable_http_proxy", 0),)
        if tls and tls.server_name:
            self._options += (("grpc.ssl_target_name_override", tls.server_name),)
        elif name.authority:
            # A certificate is verified against the authority, not against the address.
            self._options += (("grpc.default_authority", name.authority),)

    def open(self, target: str, interceptors: Sequence[grpc.UnaryUnaryClientInterceptor]) -> grpc.Channel:
        """Open a channel for threads."""
        settings = {"options": self._options, "compression": self._compression}
        if self._credentials:
            channel = grpc.secure_channel(target, self._credentials, **settings)
        else:
            channel = grpc.insecure_channel(target, **settings)
        return grpc.intercept_channel(channel, *interceptors) if interceptors else channel

    def open_aio(self, target: str, interceptors: Sequence[grpc.aio.ClientInterceptor]) -> grpc.aio.Channel:
        """Open a channel in the running event loop."""
        # By name: OpenTelemetry wraps these functions and adds its own interceptors by name.
        settings = {
            "options": self._options,
            "compression": self._compression,
            "interceptors": list(interceptors),
        }
        if self._credentials:
            return grpc.aio.secure_channel(target, self._credentials, **settings)
        return grpc.aio.insecure_channel(target, **settings)
