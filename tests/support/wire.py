"""A proxy between Airflow and a server: a test sees each request, and may break the connection off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
from aiohttp import web

from support.served import Served

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

_LEFT_OUT = {"content-length", "transfer-encoding", "connection", "keep-alive", "content-encoding"}


@dataclass(frozen=True)
class Passing:
    """A request in flight, later with its response; `ports` are those of the sender and of the proxy."""

    method: str
    path: str
    body: Any
    ports: tuple[int, int]
    answer: Any = None

    @property
    def sender(self) -> int | None:
        """Id of the process with the sending end of the connection, or None."""
        for process in psutil.process_iter():
            # A child may have inherited the socket; the oldest process comes first.
            if self._socket in _files_of(process.pid):
                return int(process.pid)
        return None

    @cached_property
    def _socket(self) -> str:
        # A sender gives up after seconds, so this reads the table of sockets once for all processes. Both
        # ends count: a port may serve connections to several places at once.
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if (int(fields[1][-4:], 16), int(fields[2][-4:], 16)) == self.ports:
                return f"socket:[{fields[9]}]"
        return "no socket"


def _files_of(pid: int) -> set[str]:
    """Return the targets of a process's open files, empty after its end."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # this file was closed meanwhile
                found.add(str(entry.readlink()))
    return found


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class Wire(Served):
    """A reverse proxy; a watcher returning True breaks the connection off.

    :param target: base URL of the server
    :param before: called with each request before the server receives the request
    :param after: called with each response before the sender receives the response
    """

    def __init__(
        self,
        target: str,
        before: Callable[[Passing], bool] = lambda _: False,
        after: Callable[[Passing], bool] = lambda _: False,
    ) -> None:
        self.target = target
        self.before, self.after = before, after
        self.errors: list[BaseException] = []

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        assert self.errors == [], self.errors

    async def _serve(self, ready: threading.Event) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        async with aiohttp.ClientSession(
            auto_decompress=True,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=120),
        ) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self._closing.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        peer = request.transport.get_extra_info("peername") if request.transport else ("", 0)
        ports = (peer[1], self.port)
        passing = Passing(request.method, request.path, _json(body), ports)
        if await self._watched(self.before, passing):
            return _broken_off(request)
        # Keep the Host header, so the URLs in the server's responses lead through the proxy too.
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _LEFT_OUT}
        url = self.target + request.path_qs
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                content = await answer.read()
        except aiohttp.ClientError:
            return _broken_off(request)
        passing = Passing(request.method, request.path, _json(body), ports, _json(content))
        if await self._watched(self.after, passing):
            return _broken_off(request)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _LEFT_OUT}
        return web.Response(status=answer.status, headers=kept, body=content)

    async def _watched(self, watcher: Callable[[Passing], bool], passing: Passing) -> bool:
        try:
            return await asyncio.to_thread(watcher, passing)
        except Exception as error:  # noqa: BLE001 - raised in __exit__, in the test's thread
            self.errors.append(error)
            return False


def _broken_off(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
