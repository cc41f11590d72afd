"""A fake Kubernetes API server for pods. Its exec endpoint runs the command as a child process."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web


class FakeExecServer:
    """Serves the namespace `ml`. A folder stands for the claim: commands get it in place of /data."""

    def __init__(self, claim: Path) -> None:
        self.claim = claim
        self.pods: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.status: dict[str, Any] = {
            "phase": "Running",
            "containerStatuses": [container_status({"running": {}})],
        }
        self.events: list[str] = []
        self.commands: list[list[str]] = []
        self.cuts: list[int] = []  # after how many bytes the next commands with input are cut off
        self.refuse: list[int] = []  # statuses that refuse the next commands; 0: no answer at all
        self.received_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=[started], daemon=True)
        self._thread.start()
        started.wait()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server; return its path."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(content))
        return path

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        pods = "/api/v1/namespaces/ml/pods"
        app = web.Application()
        app.router.add_post(pods, self._create)
        app.router.add_get(pods + "/{name}", self._get)
        app.router.add_delete(pods + "/{name}", self._delete)
        app.router.add_get(pods + "/{name}/exec", self._exec)
        app.router.add_get("/api/v1/namespaces/ml/events", self._events)
        app.on_response_prepare.append(_close_after)
        self._runner = web.AppRunner(app)
        self._loop.run_until_complete(self._runner.setup())
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = self._runner.addresses[0][1]
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _create(self, request: web.Request) -> web.Response:
        pod = await request.json()
        self.created.append(pod)
        self.pods[pod["metadata"]["name"]] = pod
        return web.json_response(pod, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        pod = self.pods[request.match_info["name"]]
        return web.json_response({**pod, "status": self.status})

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["name"])
        return web.json_response(self.pods.pop(request.match_info["name"]))

    async def _events(self, request: web.Request) -> web.Response:
        items = [
            {"metadata": {"name": "e"}, "involvedObject": {}, "message": message} for message in self.events
        ]
        return web.json_response({"items": items})

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        if self.refuse:
            if refused_with := self.refuse.pop(0):
                return web.json_response({"message": "no"}, status=refused_with)
            assert request.transport
            request.transport.abort()
            return web.Response()
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await socket.prepare(request)
        command = request.query.getall("command")
        self.commands.append(command)
        names = {"python": sys.executable, "/data": str(self.claim)}
        has_input = request.query.get("stdin") == "true"
        process = await asyncio.create_subprocess_exec(
            *(names.get(part, part) for part in command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin and process.stdout and process.stderr
        outputs = asyncio.gather(process.stdout.read(), process.stderr.read())
        if has_input and not await self._feed(socket, process):
            process.kill()
            await outputs
            await process.wait()
            await socket.close()
            return socket
        printed, errors = await outputs
        code = await process.wait()
        status: dict[str, Any] = {"status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        for channel, data in ((1, printed), (2, errors), (3, json.dumps(status).encode())):
            if data:
                await socket.send_bytes(bytes([channel]) + data)
        await socket.close()
        return socket

    async def _feed(self, socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> bool:
        """Pass the input on to the process. Return False if it was cut off."""
        assert process.stdin
        cut = self.cuts.pop(0) if self.cuts else None
        total = int(self.commands[-1][-1])
        received = 0
        while received < total:
            message = await socket.receive()
            if message.type is not WSMsgType.BINARY:
                return False
            assert message.data[0] == 0
            received += len(message.data) - 1
            self.received_bytes += len(message.data) - 1
            process.stdin.write(message.data[1:])
            await process.stdin.drain()
            if cut is not None and received >= cut:
                return False
        return True


async def _close_after(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection, which otherwise stays open until the client's garbage collection."""
    if "exec" not in request.path:
        response.force_close()


def container_status(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "receiver",
        "image": "example.com/train:1",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "state": state,
    }
