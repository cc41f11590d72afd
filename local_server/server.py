"""The whole server: load the configured models, open the gRPC and REST ports, run until told to stop."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from local_server import configuration
from local_server.batching import BatchScheduler
from local_server.configuration import BatchingParameters, ConfigurationError
from local_server.grpc_api import build_server
from local_server.metrics import Metrics
from local_server.models import Models
from local_server.rest_api import RestServer
from local_server.servable import LoadOptions, Servable
from local_server.statuses import StatusError
from local_server.versions import LoadRetries

# How long running calls may take to finish after the server is told to stop.
_SHUTDOWN_GRACE_S = 10.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of the command-line flags. Durations are in seconds.

    Attributes:
      models: from --model_name and --model_base_path; None if `model_config_file` lists the models.
      model_config_poll_s: 0 reads the file once.
      file_system_poll_s: 0 looks for versions once, and again after each change of the configuration.
      rest_port: None turns the REST API off.
      batching: None runs each request alone.
      metrics_path: URL path on the REST port; None turns the metrics off.
      channel_arguments: for the gRPC port.
      tls: for the gRPC port; None serves without TLS.
    """

    port: int
    models: ModelServerConfig | None = None
    model_config_file: Path | None = None
    model_config_poll_s: float = 0.0
    allow_version_labels_for_unavailable_models: bool = False
    file_system_poll_s: float = 1.0
    load_options: LoadOptions = dataclasses.field(default_factory=LoadOptions)
    load_retries: LoadRetries = dataclasses.field(default_factory=LoadRetries)
    grpc_max_threads: int = 8
    health_service: bool = True
    rest_port: int | None = None
    rest_threads: int = 8
    batching: BatchingParameters | None = None
    metrics_path: str | None = None
    channel_arguments: Sequence[tuple[str, int | str]] = ()
    tls: grpc.ServerCredentials | None = None


class Server:
    """Binds its ports when created, and answers calls once every model has a loaded version."""

    def __init__(self, settings: Settings) -> None:
        """Bind the ports.

        Raises:
          ConfigurationError: a port or the model configuration cannot be used.
        """
        self._settings = settings
        scheduler = BatchScheduler(settings.batching) if settings.batching else None
        self._models = Models(
            functools.partial(Servable, scheduler=scheduler, options=settings.load_options),
            settings.allow_version_labels_for_unavailable_models,
            settings.load_retries,
        )
        self._config: ModelServerConfig | None = None
        self._config_read_at = 0.0
        self._poll_at = 0.0  # in time.monotonic() seconds; 0 is at once
        self._opening = threading.Lock()
        self._is_open = False
        self._configure(self._read_config())
        metrics = Metrics(self._models.is_configured)
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
            raise _port_error("--port", settings.port) from error
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
                raise _port_error("--rest_api_port", settings.rest_port) from error

    def run(self, stop: threading.Event) -> None:
        """Serve, and apply changes on disk, until `stop` is set; then finish running calls and return.

        Calls that take longer than the grace period and a version that is loading keep their threads.
        """
        # The objects that TensorFlow's modules created live until the process exits. Without freezing them,
        # each garbage collection visits them all and stops every thread for 0.2 s.
        gc.collect()
        gc.freeze()
        # A thread of its own: a large version takes minutes to load, and `stop` must not wait for it.
        threading.Thread(target=self._watch, args=(stop,), name="watch", daemon=True).start()
        stop.wait()
        with self._opening:
            grpc_stopped = self._grpc.stop(_SHUTDOWN_GRACE_S)
            if self._rest and self._is_open:
                self._rest.drain(_SHUTDOWN_GRACE_S)
            grpc_stopped.wait()

    def _watch(self, stop: threading.Event) -> None:
        """Load versions, open the ports once every model has one, and apply changes on disk until `stop`."""
        while not stop.is_set():
            try:
                self._update()
            except Exception:  # the server would look alive and never see another version
                _log.exception("Changes on disk could not be applied")
            if not self._is_open and self._models.is_ready():
                self._open_ports(stop)
            stop.wait(self._seconds_to_next_update())

    def _open_ports(self, stop: threading.Event) -> None:
        # As in TensorFlow Serving, the ports answer only once every model has a version. A caller that can
        # connect can also predict.
        with self._opening:
            if stop.is_set():
                return
            self._grpc.start()
            _log.info("gRPC API on port %d", self.port)
            if self._rest:
                self._rest.start()
                _log.info("REST API on port %d", self._rest.server_port)
            self._is_open = True

    def _update(self) -> None:
        """Read the configuration and look at the disk if it is time, and try failed versions again."""
        if self._config_read_at + (self._settings.model_config_poll_s or math.inf) <= time.monotonic():
            try:
                self._configure(self._read_config())
            except (ConfigurationError, StatusError) as error:
                _log.error("Kept the previous model configuration: %s", error)
        if self._poll_at <= time.monotonic():
            self._poll_at = time.monotonic() + (self._settings.file_system_poll_s or math.inf)
            self._models.poll()
        else:
            self._models.load_due()

    def _seconds_to_next_update(self) -> float:
        config_at = self._config_read_at + (self._settings.model_config_poll_s or math.inf)
        next_at = min(config_at, self._poll_at, self._models.retry_at())
        return min(max(0.0, next_at - time.monotonic()), threading.TIMEOUT_MAX)

    def _read_config(self) -> ModelServerConfig:
        self._config_read_at = time.monotonic()
        if self._settings.model_config_file:
            return configuration.read_models(self._settings.model_config_file)
        assert self._settings.models is not None
        return self._settings.models

    def _configure(self, config: ModelServerConfig) -> None:
        """Apply a configuration if it differs from the current one."""
        if config != self._config:
            try:
                self._models.configure(config)
            except StatusError as error:
                if self._config is None:
                    raise ConfigurationError(error.message) from error
                raise
            self._config = config
            self._poll_at = 0.0
            names = [model.name for model in config.model_config_list.config]
            _log.info("Configured models: %s", ", ".join(names))


def _port_error(flag: str, port: int) -> ConfigurationError:
    return ConfigurationError(
        f"{flag} {port} cannot be opened: another program uses it, or this user has no permission. Stop the "
        f"other program or choose another {flag}."
    )
