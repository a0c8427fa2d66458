"""A connection shared by many waits: settings, session, and budget of requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_vace.client.asynchronous import AsyncClient
from airflow_vace.client.polls import MAX_POLLS, MAX_SLOW_POLLS
from airflow_vace.core.rate_limit import Pace
from airflow_vace.core.responses import read_list, read_prediction
from airflow_vace.core.retry import verdict_of
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from typing import Any

    from airflow_vace.client.client import Surroundings
    from airflow_vace.client.polls import Member
    from airflow_vace.client.settings import Settings
    from airflow_vace.core.requests import Request, Response
    from airflow_vace.core.responses import Page
    from airflow_vace.core.timing import Timing
    from airflow_vace.core.wait import Wait
    from airflow_vace.prediction import Prediction

    Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    Connect = Callable[[], Awaitable[Settings]]

# Longer than the default bound on how late an end is noticed, so a poll finds a connection open.
_KEEP_ALIVE_SECONDS = 120.0


class SharedConnection:
    """The client of a connection, with settings read again every few minutes.

    A failed look-up keeps the last settings: a secrets back-end in trouble stops no wait.

    :param connect: awaits the connection's settings, read again with each call
    :param spawn: starts a background task
    :param around: the clock, and the receiver of the numbers of requests
    """

    def __init__(
        self,
        conn_id: str,
        connect: Connect,
        timing: Timing,
        spawn: Spawn,
        around: Surroundings,
    ) -> None:
        self.conn_id = conn_id
        self._client: AsyncClient | None = None
        self.pace = Pace(timing=timing)
        self.clock = around.clock
        self._connect = connect
        self._timing = timing
        self._spawn = spawn
        self._around = around
        # Requests in flight for each session: a replaced session is closed after its last one.
        self._uses: Counter[AsyncClient] = Counter()
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._failure: VaceError | None = None

    @property
    def settings(self) -> Settings | None:
        """The latest settings, None before the first look-up."""
        return None if self._client is None else self._client.settings

    @property
    def lists(self) -> bool:
        """True if the back-end is known to list predictions."""
        return self._client is not None and self._client.settings.api.backend.list is not None

    async def poll(self, member: Member) -> Prediction:
        """Poll once; after a refused key the connection is read again, and a changed key is tried at once.

        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        client = await self._connected()
        settings = client.settings
        try:
            return await self._answer(client, settings, member)
        except VaceAuthError as error:
            if error.status_code != 401 or not await self._has_another_key(settings):
                raise
        # The session may be another one by now, and the former one closed.
        client = await self._connected()
        return await self._answer(client, client.settings, member)

    async def page(self, following: str | None) -> Page:
        """Return a page of the account's predictions, as soon as the budget allows.

        :param following: address of the page (default: the first page)
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        clock = asyncio.get_running_loop().time
        if (held := self.pace.delay(clock())) > 0.0:
            await asyncio.sleep(held)
        client = await self._connected()
        api = client.settings.api
        request = api.page(following) if following else api.list()
        self.pace.sent(clock())
        with self._budgeted():
            return read_list(api, request, await self._send(client, request))

    async def close(self) -> None:
        """Close the session."""
        if self._client is not None:
            await self._client.close()

    async def _answer(self, client: AsyncClient, settings: Settings, member: Member) -> Prediction:
        request = member.request(settings)
        with self._budgeted(member.wait):
            response = await self._send(client, request)
            return read_prediction(settings.api, request, response, member.wait.prediction)

    async def _send(self, client: AsyncClient, request: Request) -> Response:
        self._uses[client] += 1
        self._around.note_sent(client.settings, request)
        try:
            response = await client.send(request)
            self._around.note_answer(client.settings, request, response)
            return response
        finally:
            self._uses[client] -= 1
            if client is not self._client and not self._uses[client]:
                del self._uses[client]
                self._spawn(client.close())

    async def _connected(self) -> AsyncClient:
        """Return the client, with settings of the last few minutes.

        :raises VaceError: if the connection cannot be used, or could not be read
        """
        if self._client is None:
            # All waits ask at once after a failure, so they share its result for a moment.
            if self._failure is None or self._age >= self._timing.min_settings_refresh_seconds:
                await self._read()
            if self._client is None:
                raise self._failure or VaceTransportError("The poller is closed", sent=False)
        elif self._age >= self._timing.settings_refresh_seconds and self._reading is None:
            self._reading = self._spawn(self._read_settings())
        return self._client

    async def _has_another_key(self, refused: Settings) -> bool:
        """Read the connection, at most once a second, and return True for another key."""
        is_known = self.settings is not None and self.settings.api != refused.api
        if not is_known and self._age >= self._timing.min_settings_refresh_seconds:
            await self._read()
        return self.settings is not None and self.settings.api != refused.api

    @contextmanager
    def _budgeted(self, wait: Wait | None = None) -> Iterator[None]:
        """Count a request's result in the shared budget.

        :param wait: of the polled prediction, whose trouble may not be the server's; None for a page
        """
        now = asyncio.get_running_loop().time
        who = None if wait is None else wait.prediction.id
        max_pause = None if wait is None else self._bound_of(wait)
        try:
            yield
        except VaceRateLimited as error:
            self.pace.refused(now(), error.retry_after, who)
            raise
        except (VaceTransportError, VaceProtocolError):
            self.pace.failed(now(), who or "a page", max_pause)
            raise
        except VaceAPIError as error:
            if verdict_of(error, "poll").later:
                self.pace.failed(now(), who or "a page", max_pause)
            else:
                # The server works; the prediction still has trouble.
                self.pace.answered(now())
            raise
        self.pace.answered(now(), who)

    def _bound_of(self, wait: Wait) -> float:
        """Return the longest pause in seconds between two polls of a wait."""
        interval = wait.poll_interval or self._timing.max_poll_delay_seconds
        return max(interval, self._timing.min_poll_interval_seconds)

    @property
    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._read_at

    async def _read(self) -> None:
        """Read the connection once for all concurrent waits."""
        if self._reading is None:
            self._reading = self._spawn(self._read_settings())
        await asyncio.shield(self._reading)

    async def _read_settings(self) -> None:
        try:
            settings = await self._connect()
            before = self._client
            if before is None or before.settings.api.backend != settings.api.backend:
                self.pace = Pace(settings.api.backend.limit, self._timing)
            if before is not None and before.fits(settings):
                before.settings = settings
            else:
                self._client = await AsyncClient.open(
                    settings, connections=MAX_POLLS + MAX_SLOW_POLLS, keep_alive=_KEEP_ALIVE_SECONDS
                )
            if before is not None and before is not self._client and not self._uses[before]:
                self._spawn(before.close())
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
