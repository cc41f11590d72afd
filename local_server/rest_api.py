"""TensorFlow Serving's REST API: predict, status and metadata of a model, and Prometheus metrics."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from local_server import handlers, json_tensors
from local_server.metrics import Metrics
from local_server.models import Models
from local_server.statuses import StatusError, invalid_argument, unexpected_errors_as_internal

# Source: tensorflow_serving/model_servers/http_rest_api_util.cc.
_MODEL = (
    r"(?i:/v1/models/)(?P<name>[^/:]+)(?:(?i:/versions/)(?P<version>\d+)|(?i:/labels/)(?P<label>[^/:]+))?"
)
_PREDICT = re.compile(_MODEL + r"(?i::predict)")
_STATUS = re.compile(_MODEL + r"(?P<metadata>(?i:/metadata))?")

_MAX_BODY_BYTES = 2**28


class RestServer(ThreadingHTTPServer):
    """Runs one thread per connection, and at most `max_threads` calls at the same time."""

    daemon_threads = True

    def __init__(
        self,
        models: Models,
        address: tuple[str, int],
        max_threads: int,
        metrics: Metrics,
        metrics_path: str | None,
    ) -> None:
        """Bind the address and listen.

        Args:
          models: to serve.
          address: host and port; port 0 picks a free port.
          max_threads: the most concurrent calls; more get HTTP status 429.
          metrics: records Predict calls.
          metrics_path: URL path of the metrics; None turns them off.
        Raises:
          OSError: the address cannot be bound.
        """
        super().__init__(address, _Handler)
        self.models = models
        self.metrics = metrics
        self.metrics_path = metrics_path
        self.call_slots = threading.BoundedSemaphore(max_threads)
        self.is_draining = False
        self._changed = threading.Condition()
        self._connections: dict[socket.socket, bool] = {}  # whether a call is running on it

    def start(self) -> None:
        """Answer calls in a background thread until `drain` or `shutdown`."""
        poll_s = 0.1
        threading.Thread(target=self.serve_forever, args=(poll_s,), name="rest", daemon=True).start()

    def drain(self, grace_s: float) -> None:
        """Refuse new connections, close the idle ones, and wait up to `grace_s` seconds for running calls."""
        self.shutdown()
        while _has_data(self.socket):  # callers that connected before the shutdown
            self.handle_request()
        self.server_close()
        with self._changed:
            self.is_draining = True
            for connection, is_running in self._connections.items():
                if not is_running and not _has_data(connection):
                    with contextlib.suppress(OSError):  # the caller may have closed it
                        connection.shutdown(socket.SHUT_RD)  # the thread that waits for a call reads the end
            self._changed.wait_for(lambda: not self._connections, grace_s)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of a new connection."""
        self.set_running(request, False)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection whose last answer has been sent."""
        with self._changed:  # before it is closed, because `drain` asks the open ones for data
            self._connections.pop(request, None)
            self._changed.notify_all()
        super().shutdown_request(request)

    def set_running(self, connection: socket.socket, is_running: bool) -> None:
        """Record whether a call is running on a connection."""
        with self._changed:
            self._connections[connection] = is_running


def _has_data(connection: socket.socket) -> bool:
    """Return whether a connection, or a caller who wants one, waits to be read."""
    readable = select.poll()  # select.select refuses descriptors from 1,024
    readable.register(connection, select.POLLIN)
    return bool(readable.poll(0))


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def parse_request(self) -> bool:
        """Begin a call: its first line has arrived."""
        self.server.set_running(self.connection, True)
        return super().parse_request()

    def handle_one_request(self) -> None:
        """Wait for a call and answer it."""
        super().handle_one_request()
        self.server.set_running(self.connection, False)
        self.close_connection |= self.server.is_draining

    def do_GET(self) -> None:
        if self.path == self.server.metrics_path:
            self._send(200, self.server.metrics.text(), "text/plain")
        else:
            self._answer(self._status_or_metadata)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True  # the unread body would look like the next request
            limit = f"Content-Length must be a number up to {_MAX_BODY_BYTES}."
            self._send_error(400, f"{limit} Received: {length or None}")
            return
        body = self.rfile.read(int(length))
        self._answer(lambda: self._predict(body))

    def _answer(self, handle: Callable[[], bytes]) -> None:
        """Send the answer of `handle`, or the HTTP status of the StatusError that it raises."""
        try:
            with self._call_slot(), unexpected_errors_as_internal():
                body = handle()
        except StatusError as error:
            self._send_error(error.http_status, error.message)
        else:
            self._send(200, body, "application/json")

    @contextlib.contextmanager
    def _call_slot(self) -> Iterator[None]:
        if not self.server.call_slots.acquire(blocking=False):
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        try:
            yield
        finally:
            self.server.call_slots.release()

    def _send_error(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.close_connection |= self.server.is_draining
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log no calls, like the gRPC API."""

    def _match(self, pattern: re.Pattern[str]) -> tuple[model_pb2.ModelSpec, dict[str, str | None]]:
        path = urllib.parse.urlsplit(self.path).path
        found = pattern.fullmatch(path)
        if not found:
            raise invalid_argument(f"Malformed request: {self.command} {self.path}")
        spec = model_pb2.ModelSpec(name=urllib.parse.unquote(found["name"]))
        if found["version"]:
            if int(found["version"]) >= 2**63:
                raise invalid_argument(f"Failed to convert version: {found['version']} to numeric.")
            spec.version.value = int(found["version"])
        if found["label"]:
            spec.version_label = urllib.parse.unquote(found["label"])
        return spec, found.groupdict()

    def _status_or_metadata(self) -> bytes:
        spec, parts = self._match(_STATUS)
        if not parts["metadata"]:
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return _json(handlers.status(self.server.models, request)).encode()
        metadata_request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        response = handlers.metadata(self.server.models, metadata_request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        metadata = f'"metadata": {{"signature_def": {_json(signatures)}}}'
        return f'{{\n"model_spec":{_json(response.model_spec)},\n{metadata}\n}}\n'.encode()

    def _predict(self, body: bytes) -> bytes:
        spec, _ = self._match(_PREDICT)
        started, status = time.monotonic(), grpc.StatusCode.INTERNAL
        try:
            value = json_tensors.parse(body)
            request = predict_pb2.PredictRequest(model_spec=spec)
            request.model_spec.signature_name = value.get("signature_name", "")
            json_tensors.set_inputs(request, value, self._inputs(request.model_spec))
            response = handlers.predict(self.server.models, request)
            answer = json_tensors.to_body(response, by_row="instances" in value)
            status = grpc.StatusCode.OK
            return answer
        except StatusError as error:
            status = error.code
            raise
        finally:
            self.server.metrics.record(spec.name, "REST", status.name, time.monotonic() - started)

    def _inputs(self, spec: model_pb2.ModelSpec) -> dict[str, object]:
        key = spec.signature_name or "serving_default"
        signatures = self.server.models.find(spec).signatures
        if key not in signatures:
            raise invalid_argument(f'Serving signature name: "{key}" not found in signature def')
        return dict(signatures[key].inputs)


def _json(message: Message) -> str:
    return json_format.MessageToJson(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
