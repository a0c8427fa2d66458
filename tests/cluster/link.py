"""A TCP proxy whose connections can be cut and restored."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from support.served import Served

if TYPE_CHECKING:
    import threading


class Link(Served):
    """Forward bytes; while cut, forward none and keep connections open.

    :param target: the server's address, such as `http://127.0.0.1:8642`
    """

    def __init__(self, target: str) -> None:
        self._to = urlsplit(target)
        self._open: asyncio.Event

    def cut(self) -> None:
        # The loop runs in another thread, and an event is not safe across threads.
        self._loop.call_soon_threadsafe(self._open.clear)

    def restore(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    async def _serve(self, ready: threading.Event) -> None:
        self._open = asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._closing.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            there = await asyncio.open_connection(self._to.hostname, self._to.port)
        except OSError:  # the server is down, so the client sees a reset, as without a proxy
            writer.transport.abort()
            return
        # HTTP has no half-closed connections, so the end of one side ends both.
        ways = (
            asyncio.create_task(self._pass(reader, there[1])),
            asyncio.create_task(self._pass(there[0], writer)),
        )
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, there[1]):
            end.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while content := await source.read(65536):
                await self._open.wait()
                sink.write(content)
                await sink.drain()
            await self._open.wait()
