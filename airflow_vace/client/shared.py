"""A connection that many waits share: its settings, its session, its budget of requests."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_vace.client.asynchronous import AsyncClient
from airflow_vace.client.polls import MAX_POLLS, MAX_SLOW_POLLS
from airflow_vace.core.rate_limit import Pace
from airflow_vace.core.retry import verdict_of
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from typing import Any

    from airflow_vace.client.settings import Settings
    from airflow_vace.core.timing import Timing

    Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    Connect = Callable[[], Awaitable[Settings]]

# Longer than the default bound on how late an end is noticed, so a poll finds a connection open.
_KEEP_ALIVE_SECONDS = 120.0


class SharedConnection:
    """One client of a connection, whose settings are read again every few minutes.

    A failed look-up keeps the last settings, so a secrets back-end in trouble stops no wait.

    :param connect: awaits the connection's settings, read again with each call
    :param spawn: starts a background task
    :param in_flight: returns the polls that may still use the present session
    """

    def __init__(
        self,
        conn_id: str,
        connect: Connect,
        timing: Timing,
        spawn: Spawn,
        in_flight: Callable[[], set[asyncio.Task[None]]],
    ) -> None:
        self.conn_id = conn_id
        self.client: AsyncClient | None = None
        self.pace = Pace(timing=timing)
        self._connect = connect
        self._timing = timing
        self._spawn = spawn
        self._in_flight = in_flight
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._failure: VaceError | None = None

    @property
    def settings(self) -> Settings | None:
        """The settings that were read last, None if none were."""
        return None if self.client is None else self.client.settings

    @property
    def lists(self) -> bool:
        """True if the back-end is known to list predictions."""
        return self.client is not None and self.client.settings.api.backend.list is not None

    async def connected(self) -> AsyncClient:
        """Return the client, with settings that are a few minutes old at most.

        :raises VaceError: if the connection cannot be used, or could not be read
        """
        if self.client is None:
            # All waits ask at once after a failure, so they share its result for a moment.
            if self._failure is None or self._age >= self._timing.min_settings_refresh_seconds:
                await self._read()
            if self.client is None:
                raise self._failure or VaceTransportError("The poller is closed", sent=False)
        elif self._age >= self._timing.settings_refresh_seconds and self._reading is None:
            self._reading = self._spawn(self._read_settings())
        return self.client

    async def has_another_key(self, client: AsyncClient, refused: Settings) -> bool:
        """Read the connection, unless it was read just now, and return True if it has another key."""
        if client.settings.api == refused.api and self._age >= self._timing.min_settings_refresh_seconds:
            await self._read()
        return client.settings.api != refused.api

    @contextmanager
    def budgeted(self, who: str) -> Iterator[None]:
        """Count a request's result in the shared budget.

        :param who: id of the prediction, so that one failing prediction is not taken for a failing server
        """
        now = asyncio.get_running_loop().time
        try:
            yield
        except VaceRateLimited as error:
            self.pace.refused(now(), error.retry_after)
            raise
        except (VaceTransportError, VaceProtocolError):
            self.pace.failed(now(), who)
            raise
        except VaceAPIError as error:
            if verdict_of(error, "poll").later:
                self.pace.failed(now(), who)
            else:
                self.pace.answered(now())
            raise
        self.pace.answered(now())

    async def close(self) -> None:
        """Close the session."""
        if self.client is not None:
            await self.client.close()

    @property
    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._read_at

    async def _read(self) -> None:
        """Read the connection once for all waits that ask meanwhile."""
        if self._reading is None:
            self._reading = self._spawn(self._read_settings())
        await asyncio.shield(self._reading)

    async def _read_settings(self) -> None:
        try:
            settings = await self._connect()
            before = self.client
            if before is None or before.settings.api.backend != settings.api.backend:
                self.pace = Pace(settings.api.backend.limit, self._timing)
            if before is not None and before.fits(settings):
                before.settings = settings
            else:
                self.client = await AsyncClient.open(
                    settings, connections=MAX_POLLS + MAX_SLOW_POLLS, keep_alive=_KEEP_ALIVE_SECONDS
                )
            if before is not None and before is not self.client:
                self._spawn(_close_after(before, self._in_flight()))
            self._failure = None
        except OSError as error:
            self._failure = VaceTransportError(
                f"TLS can't be set up as the connection {self.conn_id!r} says: {error}", sent=False
            )
        except VaceError as error:
            self._failure = error
        finally:
            self._read_at = asyncio.get_running_loop().time()
            self._reading = None


async def _close_after(client: AsyncClient, polls: set[asyncio.Task[None]]) -> None:
    """Close a replaced client once the polls that use it have ended."""
    try:
        if polls:
            await asyncio.wait(polls)
    finally:
        await client.close()
