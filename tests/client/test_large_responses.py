"""Large responses in an event loop: on disk until they are parsed, a limited number at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection

from airflow_vace.client.asynchronous import AsyncClient
from airflow_vace.client.settings import Settings
from airflow_vace.exceptions import VaceTransportError
from airflow_vace.hooks import VaceHook
from support.hostile import MEGABYTE, TIMEOUT, http, once, running, within
from support.scripted import connection_to, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from support.scripted import Write

LARGE = http(running(logs="x" * (4 * MEGABYTE)))


class Interrupted:
    """A server that interrupts its first response within the body, and answers all others at once.

    `has_started` is set at the interruption, which lasts until `may_end` is set, or for `seconds`.
    """

    def __init__(self, then: bytes, *, seconds: float = 20, ends: bool = True) -> None:
        self.then, self.seconds, self.ends = then, seconds, ends
        self.has_started, self.may_end = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self, write: Write) -> None:
        self.count += 1
        if self.count > 1:
            write(self.then)
            return
        write(LARGE[: 3 * MEGABYTE])
        self.has_started.set()
        self.may_end.wait(self.seconds)
        if self.ends:
            write(LARGE[3 * MEGABYTE :])


@asynccontextmanager
async def one_slot(url: str) -> AsyncIterator[AsyncClient]:
    """Open a client that receives a single large response at a time."""
    connection = Connection(conn_id="c", conn_type="vace", host=url, password="key")
    settings = Settings.of(connection, {"timeout": TIMEOUT})
    client = await AsyncClient.open(settings, max_large_responses=1)
    try:
        yield client
    finally:
        await client.close()


def test_concurrent_large_responses_use_bounded_memory(connect: Callable[[str], None]) -> None:
    async def poll(hook: VaceHook) -> str:
        return (await hook.aget_prediction("abc")).id

    async def poll_all() -> list[str]:
        async with VaceHook() as hook:
            return await asyncio.gather(*(poll(hook) for _ in range(12)))

    large = http(running(logs="x" * (30 * MEGABYTE)))
    with serving(once(large)) as url, within(60, connect, url, timeout=60):
        assert asyncio.run(poll_all()) == ["abc"] * 12


@pytest.mark.parametrize("end", ["timeout", "cancellation", "break"])
def test_an_interrupted_large_response_releases_its_slot(end: str) -> None:
    server = Interrupted(LARGE, seconds=0 if end == "break" else 4 * TIMEOUT, ends=False)

    async def run(url: str) -> None:
        async with one_slot(url) as client:
            request = client.settings.api.get("abc")
            first = asyncio.create_task(client.send(request))
            await asyncio.to_thread(server.has_started.wait, 10)
            if end == "cancellation":
                await asyncio.sleep(TIMEOUT / 5)  # time to take the slot
                first.cancel()
            with pytest.raises((VaceTransportError, asyncio.CancelledError)):
                await first
            assert b'"id": "abc"' in (await client.send(request)).body

    started = time.monotonic()
    with serving(server) as url:
        asyncio.run(run(url))
    assert time.monotonic() - started < 20


def test_small_responses_do_not_wait_for_large_ones(connect: Callable[[str], None]) -> None:
    server = Interrupted(http(running()))

    async def run() -> None:
        async with VaceHook() as hook:
            first = asyncio.create_task(hook.aget_prediction("abc"))
            await asyncio.to_thread(server.has_started.wait, 10)
            assert (await hook.aget_prediction("abc")).id == "abc"
            server.may_end.set()
            assert (await first).id == "abc"

    with serving(server) as url, within(20, connect, url, timeout=20):
        asyncio.run(run())


@pytest.mark.parametrize("is_same", [False, True], ids=["another connection", "the same connection"])
def test_a_slow_server_delays_no_large_response_of_another(
    connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, *, is_same: bool
) -> None:
    server = Interrupted(LARGE)

    async def run() -> None:
        async with VaceHook("slow") as slow, VaceHook() as other:
            first = asyncio.create_task(slow.aget_prediction("abc"))
            await asyncio.to_thread(server.has_started.wait, 10)
            assert (await (slow if is_same else other).aget_prediction("abc")).id == "abc"
            assert not first.done()
            server.may_end.set()
            assert (await first).id == "abc"

    with serving(server) as url, serving(once(LARGE)) as quick:
        monkeypatch.setenv("AIRFLOW_CONN_SLOW", connection_to(url, timeout=10))
        connect(connection_to(quick, timeout=10))
        asyncio.run(run())
