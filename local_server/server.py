"""The server as a whole: configuration → models → gRPC and REST ports, until it is told to stop."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server import configuration
from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters, ConfigurationError
from local_server.metrics import Metrics
from local_server.models import Models
from local_server.rest import RestServer
from local_server.servable import Servable
from local_server.services import build_server
from local_server.statuses import StatusError

# Calls that have begun when the server is told to stop get this long to end.
_GRACE_S = 10.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the flags of the same names say; durations in seconds.

    Attributes:
      models: of --model_name and --model_base_path; None: those of `model_config_file`.
      rest_port: None: no REST API.
      batching: None: each request is run by itself.
      metrics_path: on the REST port; None: nowhere.
      channel_arguments: of gRPC.
      tls: of gRPC; None: in the clear.
    """

    port: int
    models: ModelServerConfig | None = None
    model_config_file: Path | None = None
    model_config_poll_s: float = 0.0
    allow_version_labels_for_unavailable_models: bool = False
    file_system_poll_s: float = 1.0
    grpc_max_threads: int = 8
    health_service: bool = True
    rest_port: int | None = None
    rest_threads: int = 8
    batching: BatchingParameters | None = None
    metrics_path: str | None = None
    channel_arguments: Sequence[tuple[str, int | str]] = ()
    tls: grpc.ServerCredentials | None = None


class Server:
    """Bound to its ports from the beginning; answers once every model has a version."""

    def __init__(self, settings: Settings) -> None:
        """Bind the ports.

        Raises:
          ConfigurationError: a port or the model config file cannot be used.
        """
        self._settings = settings
        scheduler = BatchScheduler(settings.batching) if settings.batching else None
        self._models = Models(
            functools.partial(Servable, scheduler=scheduler),
            settings.allow_version_labels_for_unavailable_models,
        )
        self._config: ModelServerConfig | None = None
        self._config_read_at = 0.0
        self._configure(self._read_config())
        metrics = Metrics(self._models.knows)
        try:
            self._grpc, self.port = build_server(
                self._models,
                f"0.0.0.0:{settings.port}",
                settings.grpc_max_threads,
                metrics=metrics,
                health_service=settings.health_service,
                options=settings.channel_arguments,
                tls=settings.tls,
            )
        except RuntimeError as error:
            raise _port_taken("--port", settings.port) from error
        self._rest = None
        if settings.rest_port is not None:
            try:
                self._rest = RestServer(
                    self._models,
                    ("", settings.rest_port),
                    settings.rest_threads,
                    metrics,
                    settings.metrics_path,
                )
            except OSError as error:
                raise _port_taken("--rest_api_port", settings.rest_port) from error

    def run(self, stop: threading.Event) -> None:
        """Load, answer, follow what changes on disk; return when the calls that had begun have ended."""
        # What TensorFlow's modules have made is there for good: looking through it for garbage stops all
        # threads for 0.2 s each time.
        gc.collect()
        gc.freeze()
        # As TensorFlow Serving: the ports answer only once a version is there, so that being reachable
        # means being ready.
        self._models.poll()
        while not self._models.is_ready() and not stop.wait(self._settings.file_system_poll_s):
            self._poll()
        if not stop.is_set():
            self._grpc.start()
            _log.info("gRPC on port %d", self.port)
            if self._rest:
                self._rest.start()
                _log.info("REST on port %d", self._rest.server_port)
        while not stop.wait(self._settings.file_system_poll_s):
            self._poll()
        if self._rest:
            self._rest.shutdown()
        self._grpc.stop(_GRACE_S).wait()

    def _poll(self) -> None:
        poll_s = self._settings.model_config_poll_s
        if poll_s and time.monotonic() - self._config_read_at >= poll_s:
            try:
                self._configure(self._read_config())
            except (ConfigurationError, StatusError) as error:
                _log.error("the models stay as they are: %s", error)
        self._models.poll()

    def _read_config(self) -> ModelServerConfig:
        self._config_read_at = time.monotonic()
        if self._settings.model_config_file:
            return configuration.read_models(self._settings.model_config_file)
        assert self._settings.models is not None
        return self._settings.models

    def _configure(self, config: ModelServerConfig) -> None:
        """Take a configuration, if it is not the one at work."""
        if config != self._config:
            try:
                self._models.configure(config)
            except StatusError as error:
                if self._config is None:
                    raise ConfigurationError(error.message) from error
                raise
            self._config = config
            _log.info("serving %s", ", ".join(model.name for model in config.model_config_list.config))


def _port_taken(flag: str, port: int) -> ConfigurationError:
    return ConfigurationError(
        f"{flag} {port} cannot be used: another program listens there, or this user may not. Stop it or "
        f"name another {flag}."
    )
