"""A gateway with models of any kind: each run costs, and reads the files of its input."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from support.scripted import connection_to
from support.served import Served

if TYPE_CHECKING:
    import threading

PRICE = 0.4


class ModelHost(Served):
    """A server on loopback; `{host}` in an output becomes its address.

    :param outputs: output by `owner/name`
    :param files: content by path
    :param missing_status: answer to a request for a missing file
    :param ended: value of `completed_at`
    """

    def __init__(self, outputs: dict[str, Any], files: dict[str, bytes]) -> None:
        self.outputs, self.files = outputs, files
        self.missing_status = 503
        self.ended: str | None = None
        self.inputs: dict[str, Any] = {}
        self.read: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.polled: set[str] = set()

    @property
    def bill(self) -> str:
        """Number of paid runs and their price."""
        return f"{len(self.inputs)} predictions, ${len(self.inputs) * PRICE:.2f}"

    @property
    def connection(self) -> str:
        return connection_to(self.url, timeout=30)

    async def _serve(self, ready: threading.Event) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/replicate/v1/models/{owner}/{name}/predictions", self._create)
        app.router.add_get("/replicate/v1/predictions/{id}", self._get)
        app.router.add_get("/{path:.*}", self._file)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._closing.wait()
        await runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        model = f"{request.match_info['owner']}/{request.match_info['name']}"
        identifier = f"{request.match_info['name']}-{len(self.inputs) + 1}"
        self.inputs[identifier] = (await request.json())["input"]
        self.outputs[identifier] = self.outputs[model]
        for url in _urls_in(self.inputs[identifier]):
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                self.read[url] = await answer.read()
        return web.json_response({"id": identifier, "status": "starting", "model": model}, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        identifier = request.match_info["id"]
        if identifier not in self.polled:
            self.polled.add(identifier)
            return web.json_response({"id": identifier, "status": "processing"})
        output = json.loads(json.dumps(self.outputs[identifier]).replace("{host}", self.url))
        ended = {"completed_at": self.ended} if self.ended else {}
        return web.json_response({"id": identifier, "status": "succeeded", "output": output, **ended})

    async def _file(self, request: web.Request) -> web.Response:
        self.fetched.append(request.path)
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=self.missing_status)
        return web.Response(body=content, headers={"Content-Type": "application/octet-stream"})


def _urls_in(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [url for item in items for url in _urls_in(item)]
    return [value] if isinstance(value, str) and value.startswith("http") else []
