"""A server on loopback, in a thread with an event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Self


class Served:
    """Base of servers that run from entry to exit; a subclass implements `_serve`."""

    port: int
    _loop: asyncio.AbstractEventLoop
    _closing: asyncio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(60)

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        await self._serve(ready)

    async def _serve(self, ready: threading.Event) -> None:
        """Listen, set `port`, set `ready`, and serve until `_closing` is set."""
        raise NotImplementedError
