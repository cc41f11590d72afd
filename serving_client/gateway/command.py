"""`python -m serving_client gateway`: from flags to a server that ends on SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys

import uvicorn

from serving_client import connection
from serving_client.aio import AsyncClient
from serving_client.gateway import observing
from serving_client.gateway.app import create_app
from serving_client.gateway.settings import Limits

# Answers that are on their way when SIGTERM comes.
_DRAIN_S = 30

# Longer than load balancers keep theirs (60 s, mostly): who closes first must not be us, or a request that
# has just been sent is lost.
_KEEP_ALIVE_S = 75


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; requests that are there by then are answered."""
    limits = Limits(
        body_bytes=arguments.max_body_mb * 2**20,
        images=arguments.max_images,
        pixels=arguments.max_megapixels * 1_000_000,
        requests=arguments.max_requests,
        waiting=arguments.max_waiting,
        url_hosts=frozenset(arguments.allow_url_host),
    )

    def open_client() -> AsyncClient:
        return AsyncClient(**connection.of(arguments), max_in_flight=limits.requests)

    observing.configure_logging()
    # uvicorn sends itself the signal again that it ended on; what runs at exit, as sending the last spans,
    # is to run then too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(open_client, limits),
            host=arguments.host,
            port=arguments.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_DRAIN_S,
            timeout_keep_alive=_KEEP_ALIVE_S,
            backlog=4096,
        )
    )
    try:
        server.run()
    except SystemExit as stopped:  # 3 if it could not start: it has said why
        return 1 if stopped.code else 0
    return 0 if server.started else 1
