"""`python -m serving_client gateway`: run the gateway's HTTP server until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import signal
import sys

import uvicorn

from serving_client.aio import AsyncClient
from serving_client.flags import client_options
from serving_client.gateway import telemetry
from serving_client.gateway.admission import Limits
from serving_client.gateway.app import create_app

# After SIGTERM, requests in flight have this long to finish.
DRAIN_TIMEOUT_S = 30

# Longer than most load balancers keep idle connections (60 s). If the gateway closed first, it would lose a
# request that the load balancer has just sent.
_KEEP_ALIVE_S = 75


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, finish the requests in flight, and return the exit code."""
    limits = Limits(
        body_bytes=arguments.max_body_mb * 2**20,
        images=arguments.max_images,
        pixels=arguments.max_megapixels * 1_000_000,
        requests=arguments.max_requests,
        waiting=arguments.max_waiting,
    )

    def open_client() -> AsyncClient:
        return AsyncClient(**client_options(arguments), max_in_flight=limits.requests)

    telemetry.configure_logging()
    # After its shutdown, uvicorn raises the signal again. sys.exit instead of the default action runs the
    # exit handlers, which send the last spans.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(open_client, limits),
            host=arguments.host,
            port=arguments.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
            timeout_keep_alive=_KEEP_ALIVE_S,
            backlog=4096,
        )
    )
    try:
        server.run()
    except SystemExit as stopped:  # code 3 if uvicorn could not start; it has logged why
        return 1 if stopped.code else 0
    return 0 if server.started else 1
