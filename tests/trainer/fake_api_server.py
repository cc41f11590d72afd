"""A fake Kubernetes API server for Jobs, Pods, Events and logs, over real HTTP."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from trainer import __main__ as cli

JOB = "train-classifier-1"
POD = f"{JOB}-abcde"


class FakeApiServer(ThreadingHTTPServer):
    """Serves the namespace `ml`. Each request for the list of Jobs first plays the next of `scenes`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("localhost", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.logs: dict[str, list[str]] = {}
        self.cut_logs_after: int | None = None  # lines; for the next log only
        self.end_logs_within: int | None = None  # characters; the next log ends properly, but within a line
        self.stall_logs = False  # the connection of the next log is dead
        self.refuse_logs: int | None = None
        self.log_calls = 0
        self.scenes: list[Callable[[FakeApiServer], object]] = []
        self.deleted: list[tuple[str, str]] = []
        self.refuse: int | None = None
        self.refusal = ""
        self.released = threading.Event()  # set: logs that stall end
        # `shutdown` waits for one poll.
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server; return its path."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://localhost:{self.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(content))
        return path

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def add_job(self, name: str = JOB, **status: Any) -> None:
        labels = {"app.kubernetes.io/name": "image-classifier", "app.kubernetes.io/component": "training"}
        self.jobs[name] = {
            "metadata": {"name": name, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"template": {"spec": {"containers": []}}},
            "status": status,
        }

    def add_pod(
        self,
        state: dict[str, Any] | None = None,
        name: str = POD,
        conditions: list[dict[str, Any]] | None = None,
        init: dict[str, Any] | None = None,
        worker: int | None = None,
    ) -> None:
        annotations = {} if worker is None else {"batch.kubernetes.io/job-completion-index": str(worker)}
        self.pods[name] = {
            "metadata": {
                "name": name,
                "creationTimestamp": f"2026-01-01T00:00:{len(self.pods):02d}Z",
                "annotations": annotations,
            },
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {
                "conditions": conditions or [],
                "containerStatuses": [status("trainer", state)] if state else [],
                "initContainerStatuses": [status("fetch-data", init)] if init else [],
            },
        }

    def end_pod(self, code: int, name: str = POD) -> None:
        terminated = {"exitCode": code, "finishedAt": "2026-01-01T00:01:00Z"}
        self.pods[name]["status"]["containerStatuses"] = [status("trainer", {"terminated": terminated})]

    def end_job(self, how: str, reason: str = "", message: str = "", name: str = JOB) -> None:
        condition = {"type": how, "status": "True", "reason": reason, "message": message}
        self.jobs[name]["status"]["conditions"] = [condition]

    def add_event(self, about: str, reason: str, message: str) -> None:
        self.events.append(
            {
                "metadata": {"name": f"e{len(self.events)}", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "involvedObject": {"name": about},
                "reason": reason,
                "message": message,
                "type": "Warning",
            }
        )


def stream_log(api: FakeApiServer, *scenes: Callable[[FakeApiServer], object]) -> int:
    """Run `logs --follow` on a Job while these scenes play; return the exit code."""
    api.add_job()
    api.scenes = [nothing, *scenes]  # `logs` looks for the Job once, before it streams
    return cli.main(["logs", JOB, "--follow"])


def nothing(api: FakeApiServer) -> None:
    """Play a scene in which nothing changes."""


def run_pod(api: FakeApiServer) -> None:
    """Play the scene in which the Job's pod starts."""
    api.add_pod(RUNNING)


def complete(api: FakeApiServer) -> None:
    """Play the scene in which the trainer and its Job succeed."""
    api.end_pod(0)
    api.end_job("Complete")


def exhaust_retries(api: FakeApiServer) -> None:
    """Play the scene in which the Job gives up after its last retry."""
    api.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def status(name: str, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "image": "example.com/train:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def stamped(lines: list[str]) -> list[str]:
    """Return lines with time stamps, as the API does. A line that begins with "same" repeats the stamp."""
    found, number = [], 0
    for line in lines:
        number += not line.startswith("same")
        found.append(f"2026-01-01T00:00:00.{number:09d}Z {line}\n")
    return found


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of a FakeApiServer."""

    server: FakeApiServer

    def answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        api = self.server
        if api.refuse:
            self.answer(api.refuse, {"kind": "Status", "code": api.refuse, "message": api.refusal})
        elif url.path == "/apis/batch/v1/namespaces/ml/jobs":
            if api.scenes:
                api.scenes.pop(0)(api)
            self.answer(200, {"kind": "JobList", "items": list(api.jobs.values())})
        elif url.path == "/api/v1/namespaces/ml/pods":
            self.answer(200, {"kind": "PodList", "items": list(api.pods.values())})
        elif url.path == "/api/v1/namespaces/ml/events":
            self.answer(200, {"kind": "EventList", "items": api.events})
        elif url.path.endswith("/log"):
            self.log(url.path.split("/")[-2])
        else:
            self.answer(404, {"kind": "Status", "code": 404})

    def log(self, pod: str) -> None:
        if pod not in self.server.pods:
            self.answer(404, {"kind": "Status", "code": 404})
            return
        self.server.log_calls += 1
        if self.server.refuse_logs:
            self.answer(self.server.refuse_logs, {"kind": "Status", "code": self.server.refuse_logs})
            return
        lines = self.server.logs.get(pod, [])
        within, self.server.end_logs_within = self.server.end_logs_within, None
        stalls, self.server.stall_logs = self.server.stall_logs, False
        cut, self.server.cut_logs_after = self.server.cut_logs_after, None
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if stalls:
            self.server.released.wait(30)
            return
        if within is not None:
            data = "".join(stamped(lines))[:within].encode()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
            return
        for text in stamped(lines)[:cut]:
            data = text.encode(errors="surrogateescape")
            half = len(data) // 2  # a line may come in pieces
            for piece in (data[:half], data[half:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if cut is None:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuse:
            self.answer(
                self.server.refuse,
                {"kind": "Status", "code": self.server.refuse, "message": self.server.refusal},
            )
            return
        assert self.path == "/apis/batch/v1/namespaces/ml/jobs"
        job["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        self.server.jobs[job["metadata"]["name"]] = {**job, "status": {}}
        self.answer(201, job)

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        query = urllib.parse.urlparse(self.path).query
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.deleted.append((name, query + body))
        del self.server.jobs[name]
        self.answer(200, {"kind": "Status", "status": "Success"})

    def log_message(self, format: str, *args: object) -> None:
        pass
