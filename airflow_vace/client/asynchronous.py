"""The asynchronous HTTP client, over aiohttp."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import aiohttp
from urllib3.exceptions import HTTPError
from yarl import URL

from airflow_vace.client.exchange import Flight
from airflow_vace.client.failures import check_size, failure, shown_cause
from airflow_vace.client.protocol import use_lenient_protocol
from airflow_vace.client.received import check_final, decompressed, first_values
from airflow_vace.core.requests import Request, Response
from airflow_vace.exceptions import VaceInputError

if TYPE_CHECKING:
    from types import SimpleNamespace
    from typing import IO

    from airflow_vace.client.settings import Settings

_READ_BYTES = 64 * 1024
# Read by our own protocol, so aiohttp's limit must not be met before.
_MAX_HEADER_BYTES = 128 * 1024
# Larger responses wait on disk until they are parsed, each after the other: the event loop of a triggerer
# has hundreds of requests in flight, and memory for few large responses.
_MAX_RESPONSE_BYTES_IN_MEMORY = 1024 * 1024
# Each large response may take 128 MiB of disk, so further ones wait.
_MAX_LARGE_RESPONSES = 8


class AsyncClient:
    """A session of aiohttp with the settings of a connection; the caller of `open` must close it.

    :param settings: of the connection; also used to build requests
    :param session: closed by :meth:`close`
    :param max_large_responses: responses over 1 MiB received at the same time; further ones wait
    """

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession,
        *,
        max_large_responses: int = _MAX_LARGE_RESPONSES,
    ) -> None:
        self.settings = settings
        self._session = session
        self._proxies: dict[str, str | None] = {}
        self._large_responses = asyncio.Semaphore(max_large_responses)

    @classmethod
    async def open(
        cls,
        settings: Settings,
        *,
        connections: int = 100,
        keep_alive: float | None = None,
        max_large_responses: int = _MAX_LARGE_RESPONSES,
    ) -> Self:
        """Return a client with a new session.

        :param connections: highest number of connections at the same time
        :param keep_alive: seconds to keep an idle connection (default: `max_idle_connection_seconds` of
            the settings' timing)
        :param max_large_responses: responses over 1 MiB received at the same time; further ones wait
        :raises OSError: if a certificate cannot be read
        """
        if keep_alive is None:
            keep_alive = settings.timing.max_idle_connection_seconds
        # Reading certificates takes tens of milliseconds, too long for an event loop.
        context = await asyncio.to_thread(settings.ssl_context)
        connector = aiohttp.TCPConnector(ssl=context, limit=connections, keepalive_timeout=keep_alive)
        use_lenient_protocol(connector, asyncio.get_running_loop())
        session = aiohttp.ClientSession(
            connector=connector,
            middlewares=(_without_repeats,),
            # A cookie of a gateway must not bind all tasks of a triggerer to a single backend server.
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_sent_trace()],
            # Both clients decompress with urllib3.
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        return cls(settings, session, max_large_responses=max_large_responses)

    def fits(self, settings: Settings) -> bool:
        """Return True if other settings can use this session."""
        mine = self.settings
        known = (mine.verify, mine.cert, mine.proxies)
        return known == (settings.verify, settings.cert, settings.proxies)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, request: Request) -> Response:
        """Send a request and return the complete response, with any status code.

        :param request: without a form, because only the blocking client uploads files
        :raises VaceInputError: for a SOCKS proxy
        :raises VaceTransportError: if no complete response came in time; `sent` is False only if the server
            cannot have seen the request
        :raises VaceProtocolError: if the response is too large
        """
        settings = self.settings.for_request(request)
        flight = Flight(settings.timeout)
        with tempfile.SpooledTemporaryFile(_MAX_RESPONSE_BYTES_IN_MEMORY) as body:
            try:
                response = await self._receive(request, settings, flight, body)
                body.seek(0)
                # Parsing takes several times the size in memory. No await follows, so a caller that parses
                # at once is done before the next response is loaded.
                return Response(response.status, first_values(response.raw_headers), body.read())
            except (aiohttp.ClientError, HTTPError, TimeoutError, OSError) as error:
                raise failure(request, error, settings, flight) from shown_cause(error, request)

    async def _receive(
        self, request: Request, settings: Settings, flight: Flight, body: IO[bytes]
    ) -> aiohttp.ClientResponse:
        """Return a response after writing its body into a file."""
        proxy = self._proxy_for(request.url)
        deadline = asyncio.get_running_loop().time() + settings.timeout
        async with (
            AsyncExitStack() as large,
            self._session.request(
                request.method,
                _url(request.url),
                headers=request.headers,
                data=request.body if isinstance(request.body, bytes) else None,
                proxy=proxy,
                timeout=_client_timeout(settings.timeout, settings.connect_timeout),
                allow_redirects=False,
                trace_request_ctx=flight,
            ) as response,
        ):
            check_final(response.status, request)
            encoding = response.headers.get("Content-Encoding")
            if not encoding and 0 < (response.content_length or 0) <= _MAX_RESPONSE_BYTES_IN_MEMORY:
                body.write(await response.read())
                return response
            # aiohttp's total timeout interrupts its own reads only, so the wait for a slot needs a deadline.
            async with asyncio.timeout_at(deadline):
                if encoding:
                    await self._decompress(response, request, body, large)
                else:
                    await self._store(response, request, body, large)
            return response

    async def _store(
        self, response: aiohttp.ClientResponse, request: Request, body: IO[bytes], large: AsyncExitStack
    ) -> bool:
        """Write a body into a file; from 1 MiB on, hold one of the slots for large responses.

        :param large: releases the slot when closed
        :returns: True if a slot is held
        """
        is_large = False
        async for chunk in response.content.iter_chunked(_READ_BYTES):
            size = body.tell() + len(chunk)
            check_size(size, request)
            if size > _MAX_RESPONSE_BYTES_IN_MEMORY and not is_large:
                is_large = True
                await large.enter_async_context(self._large_responses)
            body.write(chunk)
        return is_large

    async def _decompress(
        self, response: aiohttp.ClientResponse, request: Request, body: IO[bytes], large: AsyncExitStack
    ) -> None:
        """Write a compressed body into a file after decompression in a thread."""
        encoding = response.headers["Content-Encoding"]

        def write() -> None:
            for piece in decompressed(packed, encoding, request):
                body.write(piece)

        with tempfile.SpooledTemporaryFile(_MAX_RESPONSE_BYTES_IN_MEMORY) as packed:
            if not await self._store(response, request, packed, large):
                # A small body may become a large one.
                await large.enter_async_context(self._large_responses)
            packed.seek(0)
            await asyncio.to_thread(write)

    def _proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL; the environment is read once for each origin.

        :raises VaceInputError: for a SOCKS proxy, which aiohttp does not support
        """
        origin = url[: url.find("/", url.find("//") + 2)]
        if origin not in self._proxies:
            proxy = self.settings.proxy_for(url)
            if proxy and proxy.lower().startswith("socks"):
                remedy = "use an http proxy, or deferrable=False"
                raise VaceInputError(
                    f"A SOCKS proxy works on workers only, not in the triggerer: {remedy}. Nothing was sent.",
                    field="proxies",
                    value="***",
                    remedy=remedy,
                )
            self._proxies[origin] = proxy
        return self._proxies[origin]


async def _note_sent(_: object, context: SimpleNamespace, __: object) -> None:
    flight: Flight = context.trace_request_ctx
    flight.is_sent = True


def _sent_trace() -> aiohttp.TraceConfig:
    """Return hooks that record when a connection, including TLS, is ready for a request."""
    traces = aiohttp.TraceConfig()
    traces.on_connection_create_end.append(_note_sent)
    traces.on_connection_reuseconn.append(_note_sent)
    return traces


@lru_cache(maxsize=4096)
def _url(text: str) -> URL:
    # All polls of a prediction have the same URL, and a triggerer sends hundreds of polls a second.
    return URL(text)


@lru_cache(maxsize=16)
def _client_timeout(total: float, connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=connect)


class _ConnectionLostError(aiohttp.ClientError):
    """A connection lost before the response; unlike aiohttp's own error, never repeated."""


async def _without_repeats(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request once.

    aiohttp repeats a GET after a lost connection at once, without regard to our schedule and rate limit.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLostError(error) from error
